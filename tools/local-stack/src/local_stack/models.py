"""The language model of the stack: the scripted one, or the operator's."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment, program
from scripted_model.providers import KEY, PROVIDERS
from shared_utils.config.values import trimmed, unquoted

_OPENAI = "https://api.openai.com/v1"
_OPENAI_MODEL = "gpt-4o-mini"
_SCRIPTED_MODEL = "scripted"
_READ = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "LETTA_MODEL", "LETTA_EMBEDDING", "MEMORY_MODEL")


@dataclass(frozen=True)
class ModelAccess:
    """How to reach an OpenAI-compatible model.

    Attributes:
        url: its base URL, ending in /v1.
        api_key: what it wants as bearer token.
        name: the model's id.
        handle: the id as Letta writes it: below `openai/` only for OpenAI's own address.
        embedding: Letta's handle of the embedding model, at the same address.
        embedding_dimensions: length of its vectors, for one that Letta does not know by itself.
    """

    url: str
    api_key: str
    name: str
    handle: str
    embedding: str = "openai/text-embedding-3-small"
    embedding_dimensions: int | None = None

    @property
    def letta_variables(self) -> dict[str, str]:
        """The variables for letta-server."""
        if self.embedding_dimensions is None:
            return self.variables
        return {
            **self.variables,
            "LETTA_SERVER_EMBEDDING_MODEL": self.embedding.rpartition("/")[2],
            "LETTA_SERVER_EMBEDDING_DIMENSIONS": str(self.embedding_dimensions),
        }

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables from which programs read it."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": self.api_key}

    @property
    def embedding_variables(self) -> dict[str, str]:
        """The variables of the embedding model for the bridge and memory-python: the one of Letta's agents."""
        model = self.embedding.rpartition("/")[2]
        return {"EMBEDDING_BASE_URL": self.url, "EMBEDDING_API_KEY": self.api_key, "EMBEDDING_MODEL": model}


def operators_model(variables: Mapping[str, str]) -> ModelAccess | None:
    """The model that the operator's environment names; None if it sets neither OPENAI_API_KEY nor OPENAI_BASE_URL."""
    variables = {name: unquoted(trimmed(variables.get(name, ""))) for name in _READ}
    url, key = variables["OPENAI_BASE_URL"], variables["OPENAI_API_KEY"]
    if not url and not key:
        return None
    url = url or _OPENAI
    provider = "openai" if urlsplit(url).hostname == urlsplit(_OPENAI).hostname else "openai-proxy"
    handle = variables["LETTA_MODEL"] or _OPENAI_MODEL
    handle = handle if "/" in handle else f"{provider}/{handle}"
    name = variables["MEMORY_MODEL"] or handle.partition("/")[2]
    embedding = variables["LETTA_EMBEDDING"] or ModelAccess.embedding
    return ModelAccess(url, key or "unused", name, handle, embedding)


class ScriptedModel(Process):
    """The project's own deterministic model.

    Args:
        logs: directory of its log.
        port: 0 picks a free one.
        provider: the name of a provider to imitate, of ``scripted_model.providers``.
    """

    def __init__(self, *, logs: Path, port: int = 0, provider: str | None = None) -> None:
        self.port = port or free_port()
        self.base_url = f"http://{HOST}:{self.port}"
        self._provider = PROVIDERS[provider] if provider else None
        self.url = f"{self.base_url}{self._provider.path if self._provider else '/v1'}"
        options = ["--provider", provider] if provider else []
        super().__init__(
            "scripted-model",
            [program("scripted-model"), "--host", HOST, "--port", str(self.port), *options],
            logs=logs,
            environment=environment(),
            ready=answers(f"{self.base_url}/health"),
        )

    def set_pace(self, milliseconds: float) -> None:
        """Pause after each token of a streamed answer."""
        dial = json.dumps({"pace_ms": milliseconds}).encode()
        request = urllib.request.Request(  # noqa: S310  # http, our own
            f"{self.base_url}/control/faults", dial, {"Content-Type": "application/json"}, method="PUT"
        )
        urllib.request.urlopen(request, timeout=10.0).close()  # noqa: S310  # http, our own

    @property
    def access(self) -> ModelAccess:
        name, key = (self._provider.model, KEY) if self._provider else (_SCRIPTED_MODEL, "scripted")
        return ModelAccess(self.url, key, name, f"openai-proxy/{name}")
