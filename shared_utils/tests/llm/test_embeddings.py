"""The embedding client against servers that answer well, badly, late, and not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from tenacity import RetryCallState

from scripted_model.app import application
from scripted_model.providers import KEY, PROVIDERS, Imitation
from shared_utils.llm import embeddings
from shared_utils.llm.embeddings import EmbeddingSettings, EmbeddingsRefused, EmbeddingsUnavailable, HttpEmbedder


def embedder(answer: Callable[..., Any], **settings: int) -> tuple[embeddings.HttpEmbedder, list[Any]]:
    """One that asks `answer(body) -> response`; `asked` collects the bodies."""
    asked = []

    def handle(request: httpx.Request) -> Any:
        asked.append(json.loads(request.content))
        return answer(asked[-1])

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    made = HttpEmbedder(client, EmbeddingSettings.model_validate({"base_url": "http://model/v1", **settings}))
    return made, asked


def vectors(*numbers: int) -> httpx.Response:
    return httpx.Response(
        200, json={"data": [{"index": index, "embedding": [float(number)]} for index, number in enumerate(numbers)]}
    )


async def test_texts_are_asked_for_in_parts_and_come_back_in_order() -> None:
    def answer(body: dict[str, list[str] | str]) -> httpx.Response:
        items = [{"index": index, "embedding": [float(text)]} for index, text in enumerate(body["input"])]
        return httpx.Response(200, json={"data": items[::-1]})

    made, asked = embedder(answer, batch=2)
    assert await made.embed(["1", "2", "3", "4", "5"]) == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert [len(body["input"]) for body in asked] == [2, 2, 1]
    assert {body["model"] for body in asked} == {"text-embedding-3-small"}
    assert await made.embed([]) == []


async def test_a_server_that_names_its_limit_gets_fewer_texts() -> None:
    provider = PROVIDERS["dashscope"]
    app = Imitation(application(models=[provider.model]), provider)
    asked: list[int] = []

    async def count(request: httpx.Request) -> None:
        asked.append(len(json.loads(request.content)["input"]))

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, event_hooks={"request": [count]}) as client:
        settings = {"base_url": f"http://model{provider.path}", "api_key": KEY, "model": "text-embedding-v4"}
        made = HttpEmbedder(client, EmbeddingSettings.model_validate(settings))
        vectors = await made.embed([f"text {number}" for number in range(23)])
        assert (len(vectors), len(vectors[0])) == (23, 1024)
        assert asked == [23, 10, 10, 3]
        await made.embed(["one"] * 11)
        assert asked[4:] == [10, 1], "the limit is remembered"
        assert vectors[22] == (await made.embed(["text 22"]))[0]


async def test_a_limit_that_is_not_below_what_was_sent_is_a_refusal() -> None:
    said = {"error": {"message": "batch size is invalid, it should not be larger than 10"}}
    made, asked = embedder(lambda body: httpx.Response(400, json=said))
    with pytest.raises(EmbeddingsRefused, match="larger than 10"):
        await made.embed(["one"] * 10)
    assert len(asked) == 1


async def test_a_long_text_is_cut_and_an_empty_one_is_a_space() -> None:
    made, asked = embedder(lambda body: vectors(*range(len(body["input"]))), max_characters=100)
    await made.embed(["长" * 500, ""])
    assert asked[0]["input"] == ["长" * 100, " "]


async def test_texts_are_sent_as_utf8_whatever_they_hold() -> None:
    made, asked = embedder(lambda body: vectors(*range(len(body["input"]))))
    await made.embed(["half \ud83d", "NUL\x00"])
    assert asked[0]["input"] == ["half \ufffd", "NUL\ufffd"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pauses before another attempt, in seconds; nobody waits for them."""
    found = []
    real = embeddings._pause

    def none(state: RetryCallState) -> float:
        found.append(real(state))
        return 0.0

    monkeypatch.setattr(embeddings, "_pause", none)
    return found


async def test_request_to_an_overloaded_model_is_retried(pauses: list[Any]) -> None:
    answers = [httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(503), vectors(1)]
    made, asked = embedder(lambda _: answers.pop(0))
    assert await made.embed(["a"]) == [[1.0]]
    assert len(asked) == 3
    assert pauses[0] == 7.0
    assert 0 < pauses[1] < 6


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.usefixtures("pauses")
async def test_one_that_stays_overloaded_is_unavailable(status: int) -> None:
    made, asked = embedder(lambda _: httpx.Response(status), attempts=2)
    with pytest.raises(EmbeddingsUnavailable):
        await made.embed(["a"])
    assert len(asked) == 2


async def test_one_that_is_unavailable_is_unavailable() -> None:
    def answer(_body: dict[str, list[str] | str]) -> None:
        raise httpx.ConnectError("refused")

    made, _ = embedder(answer, attempts=1)
    with pytest.raises(EmbeddingsUnavailable):
        await made.embed(["a"])


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(401),
        httpx.Response(404),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"data": []}),
        httpx.Response(200, json={"data": [{"index": 0, "embedding": []}]}),
        httpx.Response(200, json={"data": [{"index": 0, "embedding": ["x"]}]}),
        httpx.Response(200, text='{"data": [{"index": 0, "embedding": [NaN]}]}'),
        httpx.Response(200, json={"data": [{"index": 1, "embedding": [1.0]}]}),
    ],
)
async def test_refused_or_invalid_response_is_not_retried(response: httpx.Response) -> None:
    made, asked = embedder(lambda _: response)
    with pytest.raises(EmbeddingsRefused):
        await made.embed(["a"])
    assert len(asked) == 1


@pytest.mark.parametrize(
    "indexes",
    [(None, None, None), (..., ..., ...), (0, 1, 2), (..., 1, 2), (None, 1, 2)],
    ids=["null", "left out", "given", "zero left out", "zero null"],
)
async def test_vectors_without_an_index_are_in_the_order_of_the_texts(indexes: tuple[Any, ...]) -> None:
    items = [
        {"embedding": [float(place)], **({} if index is ... else {"index": index})}
        for place, index in enumerate(indexes)
    ]
    made, _ = embedder(lambda _: httpx.Response(200, json={"data": items}))
    assert await made.embed(["a", "b", "c"]) == [[0.0], [1.0], [2.0]]


async def test_an_index_of_zero_that_is_left_out_is_found_wherever_it_stands() -> None:
    items = [{"index": 1, "embedding": [1.0]}, {"embedding": [0.0]}]
    made, _ = embedder(lambda _: httpx.Response(200, json={"data": items}))
    assert await made.embed(["a", "b"]) == [[0.0], [1.0]]


@pytest.mark.parametrize("indexes", [(0, 0), (..., ..., 1), (1, 2), (0, ...), ("x", 0)])
async def test_vectors_without_a_valid_index_are_refused(indexes: tuple[Any, ...]) -> None:
    items = [{"embedding": [1.0], **({} if index is ... else {"index": index})} for index in indexes]
    made, _ = embedder(lambda _: httpx.Response(200, json={"data": items}))
    with pytest.raises(EmbeddingsRefused):
        await made.embed(["text"] * len(items))


async def test_a_date_in_retry_after_is_waited_for(pauses: list[Any]) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    answers = [httpx.Response(429, headers={"Retry-After": when}), vectors(1)]
    made, _ = embedder(lambda _: answers.pop(0))
    assert await made.embed(["a"]) == [[1.0]]
    assert 10 < pauses[0] <= 20


async def test_a_server_that_does_not_know_the_encoding_is_asked_without_it() -> None:
    def answer(body: dict[str, list[str] | str]) -> httpx.Response:
        refused = {"error": {"message": "Unknown parameter: 'encoding_format'", "param": "encoding_format"}}
        return httpx.Response(400, json=refused) if "encoding_format" in body else vectors(1)

    made, asked = embedder(answer)
    assert await made.embed(["a"]) == await made.embed(["b"]) == [[1.0]]
    assert ["encoding_format" in body for body in asked] == [True, False, False]


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (401, "Incorrect API key provided", "refuses the key (Incorrect API key provided); give it"),
        (429, "You exceeded your current quota", "a quota is used up (You exceeded your current quota)"),
        (400, "This model's maximum context length is 512 tokens", "maximum context length is 512 tokens"),
    ],
)
async def test_refusal_quotes_the_provider_and_is_not_retried(status: int, message: str, said: str) -> None:
    made, asked = embedder(lambda _: httpx.Response(status, json={"error": {"message": message}}))
    with pytest.raises(EmbeddingsRefused) as raised:
        await made.embed(["a"])
    assert said in str(raised.value)
    assert len(asked) == 1


async def test_other_dimensions_than_asked_for_are_refused() -> None:
    made, asked = embedder(lambda _: vectors(1), dimensions=8)
    with pytest.raises(EmbeddingsRefused, match="instead of 8"):
        await made.embed(["a"])
    assert asked[0]["dimensions"] == 8


async def test_the_scripted_model_answers_it() -> None:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=application()))
    made = HttpEmbedder(client, EmbeddingSettings.model_validate({"base_url": "http://model/v1", "dimensions": 64}))
    tea, drink, trains = await made.embed(["我喜欢喝茶", "我喜欢喝绿茶", "火车几点开"])

    def near(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert near(tea, drink) > 0.5 > near(tea, trains)
    await client.aclose()
