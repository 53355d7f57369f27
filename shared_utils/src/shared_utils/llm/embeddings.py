"""Texts to vectors, over any OpenAI-compatible ``POST {base_url}/embeddings``."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from shared_utils.config.layout import Rename
from shared_utils.config.setting_types import HttpAddress, HttpKey
from shared_utils.config.settings import Section, setting
from shared_utils.connection_failures import connection_failure
from shared_utils.errors import ServiceError
from shared_utils.llm.model_errors import Cause, read_refusal
from shared_utils.llm.retry_after import parse_retry_after
from shared_utils.text import clean_text, read_json

_FIRST_REFUSAL: Final = 300
_LONGEST_WAIT: Final = 30.0
_BATCH_LIMIT: Final = re.compile(
    r"batch size\b.{0,60}\b(?:larger than|greater than|more than|exceed|at most)\D{0,12}(\d{1,4})\b", re.IGNORECASE
)
"""How DashScope, which takes ten texts, and others say how many they take."""


class EmbeddingsUnavailable(ServiceError):
    """The embedding model cannot be reached, or is overloaded."""

    code = "embeddings_unavailable"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds it asked for, None where it asked for nothing."""


class EmbeddingsRefused(ServiceError):
    """The embedding model will not take this request."""

    code = "embeddings_refused"

    def __init__(
        self, message: str | None = None, *, parameters: frozenset[str] = frozenset(), most_texts: int | None = None
    ) -> None:
        super().__init__(message)
        self.parameters = parameters
        """Of the request, those that the refusal is about."""
        self.most_texts = most_texts
        """How many texts of one request the server says that it takes, None where it says nothing of that."""


EMBEDDING_RENAMES: Final = (Rename("embeddings.timeout", "embeddings.timeout_seconds", ("EMBEDDING_TIMEOUT",)),)
"""Where a program has these settings in the section ``embeddings``."""


class EmbeddingSettings(Section):
    """The model that turns texts into vectors. It should be the one Letta's agents use, so that one key serves both."""

    model: str = setting(
        "text-embedding-3-small",
        "EMBEDDING_MODEL",
        doc="name of the model; existing vectors keep their model until the command vectors reembed",
        min_length=1,
    )
    dimensions: int | None = setting(
        None,
        "EMBEDDING_DIMENSIONS",
        doc="requested dimensions, if the model supports a choice; empty: its default",
        ge=1,
    )
    base_url: HttpAddress = setting(
        "https://api.openai.com/v1",
        "EMBEDDING_BASE_URL",
        doc="OpenAI-compatible endpoint",
    )
    api_key: HttpKey | None = setting(None, "EMBEDDING_API_KEY", doc="its key, if it needs one")
    batch: int = setting(128, doc="texts in one request", ge=1, le=2048)
    max_characters: int = setting(8000, doc="characters of a text that are embedded; the rest is ignored", ge=100)
    timeout_seconds: float = setting(30.0, "EMBEDDING_TIMEOUT_SECONDS", doc="seconds one request may take", gt=0)
    attempts: int = setting(3, doc="attempts of one request", ge=1)


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def model(self) -> str:
        """The model's name, which is stored with every vector."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order, all of one length.

        Raises:
            EmbeddingsUnavailable: out of reach or overloaded, however often it was tried.
            EmbeddingsRefused: the request is refused, or the answer is invalid.
        """
        ...


class HttpEmbedder:
    """See :class:`Embedder`. The client is the caller's, and the caller closes it."""

    def __init__(self, client: httpx.AsyncClient, settings: EmbeddingSettings) -> None:
        self._client = client
        self._settings = settings
        self._url = f"{settings.base_url.rstrip('/')}/embeddings"
        key = settings.api_key
        self._headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._key = key.get_secret_value() if key else ""
        self._batch = settings.batch
        """Texts of one request: the setting, or fewer once the server has named its limit."""
        self._names_encoding = True
        """Whether requests name the encoding ``float``; a server that refuses the parameter returns numbers anyway."""

    @property
    def model(self) -> str:
        """See :class:`Embedder`."""
        return self._settings.model

    def instead(self, model: str, dimensions: int) -> HttpEmbedder:
        """An embedder of another model at the same address; ``dimensions`` counts where the model can choose."""
        chosen = None if self._settings.dimensions is None else dimensions
        return HttpEmbedder(self._client, self._settings.model_copy(update={"model": model, "dimensions": chosen}))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See :class:`Embedder`."""
        vectors: list[list[float]] = []
        while len(vectors) < len(texts):
            part = [self._cut(text) for text in texts[len(vectors) : len(vectors) + self._batch]]
            try:
                vectors += await self._embed(part)
            except EmbeddingsRefused as error:
                if error.most_texts is None or not 0 < error.most_texts < len(part):
                    raise
                self._batch = error.most_texts
        if len({len(vector) for vector in vectors}) > 1:
            raise EmbeddingsRefused(f"the embedding model {self.model} answered with vectors of several lengths")
        return vectors

    def _cut(self, text: str) -> str:
        # An empty text is an error to most servers, and a space is near nothing.
        return clean_text(text[: self._settings.max_characters]) or " "

    async def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        body: dict[str, Any] = {"model": self.model, "input": list(texts)}
        if self._names_encoding:
            body["encoding_format"] = "float"
        if self._settings.dimensions is not None:
            body["dimensions"] = self._settings.dimensions
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._settings.attempts),
            wait=_pause,
            retry=retry_if_exception(lambda error: isinstance(error, EmbeddingsUnavailable)),
            reraise=True,
        )
        return _vectors(await retrying(self._answer, body), len(texts), self._settings.dimensions)

    async def _answer(self, body: dict[str, Any]) -> Any:
        """The answer to ``body``, or to one without the encoding, which some servers do not know."""
        try:
            return await self._post(body)
        except EmbeddingsRefused as error:
            if "encoding_format" not in error.parameters:
                raise
            self._names_encoding = False
            del body["encoding_format"]
            return await self._post(body)

    async def _post(self, body: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                response = await self._client.post(self._url, json=body, headers=self._headers)
        except (httpx.TransportError, TimeoutError) as error:
            raise EmbeddingsUnavailable(
                f"the embedding model cannot be reached ({connection_failure(error) or type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            raise EmbeddingsRefused(f"the embedding model's answer cannot be read ({type(error).__name__})") from error
        if response.status_code >= _FIRST_REFUSAL:
            raise self._refused(response, body["input"])
        try:
            return read_json(response.content)
        except ValueError as error:
            raise EmbeddingsRefused("the embedding model's answer is not JSON; check its base_url") from error

    def _refused(self, response: httpx.Response, texts: Sequence[str]) -> EmbeddingsUnavailable | EmbeddingsRefused:
        status = response.status_code
        refusal = read_refusal(status, response.content, hidden=[*texts, *([self._key] if self._key else [])])
        says = f"the embedding model answered with status {status}: {refusal.sentence}"
        if refusal.cause.passes:
            return EmbeddingsUnavailable(says, retry_after=parse_retry_after(response.headers.get("Retry-After")))
        advice = _ADVICE.get(refusal.cause, f"check embeddings.model ({self.model}), its key and base_url")
        limit = _BATCH_LIMIT.search(refusal.words)
        most_texts = int(limit[1]) if limit else None
        return EmbeddingsRefused(f"{says}; {advice}", parameters=refusal.parameters, most_texts=most_texts)


_ADVICE: Final[Mapping[Cause, str]] = {
    Cause.CREDENTIALS: "give it a valid EMBEDDING_API_KEY",
    Cause.CREDITS: "pay the provider, or raise the quota",
    Cause.OVERFLOW: "lower embeddings.max_characters or embeddings.batch",
}
"""What to do about a refusal; of every other kind, check what was configured."""

_exponential = wait_exponential_jitter(multiplier=0.3, max=5.0)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, EmbeddingsUnavailable) else None
    return max(_exponential(state), min(asked or 0.0, _LONGEST_WAIT))


def _vectors(answer: Any, count: int, dimensions: int | None) -> list[list[float]]:
    """The vectors in the order of the texts; servers may answer in another."""
    try:
        items = answer["data"]
        vectors = [[float(number) for number in item["embedding"]] for item in items]
        places = _places([item.get("index") for item in items])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EmbeddingsRefused("the embedding model's answer contains no embeddings; check its base_url") from None
    if sorted(places) != list(range(count)):
        raise EmbeddingsRefused(f"the embedding model answered with {len(items)} vectors for {count} texts")
    vectors = [vector for _, vector in sorted(zip(places, vectors, strict=True))]
    if any(not vector or not all(map(math.isfinite, vector)) for vector in vectors):
        raise EmbeddingsRefused(
            "the embedding model answered with an empty vector, or with values that are not finite numbers"
        )
    if dimensions is not None and any(len(vector) != dimensions for vector in vectors):
        raise EmbeddingsRefused(
            f"the embedding model answered with {len(vectors[0])} dimensions instead of {dimensions}; unset "
            "embeddings.dimensions, or choose a model that supports it"
        )
    return vectors


def _places(indexes: list[Any]) -> list[int]:
    """The text that each vector belongs to, by what the server says of it.

    Servers that write no index answer in the order of the texts; those that leave out zeros leave out one.
    """
    missing = [place for place, index in enumerate(indexes) if index is None]
    if len(missing) == len(indexes):
        return missing
    return [0 if index is None else int(index) for index in indexes]
