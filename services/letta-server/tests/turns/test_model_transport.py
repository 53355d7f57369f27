"""Calls of models over aiohttp: errors, limits, proxies and certificates are as with httpx's own connections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from local_stack.fixtures import missing_parts
from local_stack.tls import Certificates, make_certificates

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

SHARED: Final = r"""
import asyncio, contextlib, gzip, json, os, ssl, time
import httpx, openai
from letta_server.turns.model_connections import Connections

connections = Connections()
MESSAGES = [{"role": "user", "content": "hello"}]
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
ANSWER = {"id": "c-1", "created": 0, "model": "m", "object": "chat.completion", "choices": [CHOICE]}
BODY = json.dumps(ANSWER).encode()

def response(body=BODY, *headers):
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body

class Model:
    '''Answers each request with the same bytes.'''

    def __init__(self, answer=response(), *, after=0.0, then=b"", closes=False, reads=True):
        self.answer, self.after, self.then, self.closes, self.reads = answer, after, then, closes, reads
        self.heads, self.connections = [], 0
        self.stopped = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self, **options):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000, **options)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        yield self
        self.stopped.set()
        await connections.close()
        server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if not self.reads:
                await self.stopped.wait()
            while self.reads:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
                await reader.readexactly(int(lines.get("content-length", "0")))
                self.heads.append(head)
                await asyncio.sleep(self.after)
                writer.write(self.answer)
                await writer.drain()
                if self.then:
                    await asyncio.sleep(0.05)
                    writer.write(self.then)
                if self.closes:
                    break
        writer.close()

def client(url, **options):
    return connections.client(**{"api_key": "one", "base_url": url} | options)

async def ask(url, *, messages=MESSAGES, **options):
    completion = await client(url, **options).chat.completions.create(model="m", messages=messages)
    return completion.choices[0].message.content

async def failure(call):
    try:
        await call
    except Exception as error:
        return type(error).__name__
    return "no error"
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    with missing_parts():
        return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def run(run_with_letta: Callable[..., Any], tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the body of ``main`` after ``SHARED``; returns the lines that it prints."""

    def run(body: str, **variables: str) -> list[str]:
        indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
        program = f"{SHARED}\nasync def main():\n{indented}\nasyncio.run(asyncio.wait_for(main(), 60))\n"
        ran = run_with_letta(program, tmp_path, **variables)
        assert ran.returncode == 0, ran.stderr
        assert "Unclosed" not in ran.stderr, ran.stderr
        lines: list[str] = ran.stdout.splitlines()
        return lines

    return run


def test_refused_connection_is_a_connection_error_and_no_time_out(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model().serve() as model:
    pass
print(await failure(ask(model.url, max_retries=0)))
print(await failure(ask("http://name.invalid/v1", max_retries=0)))
await connections.close()
""") == ["APIConnectionError", "APIConnectionError"]


def test_connection_closed_without_an_answer_fails_after_the_retries_of_the_sdk(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model(b"", closes=True).serve() as model:
    print(await failure(ask(model.url, max_retries=0)), len(model.heads))
    print(await failure(ask(model.url, max_retries=1)), len(model.heads))
""") == ["APIConnectionError 1", "APIConnectionError 3"]


def test_malformed_head_is_a_connection_error(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model(b"no HTTP at all\\r\\n\\r\\n").serve() as model:
    print(await failure(ask(model.url, max_retries=0)))
""") == ["APIConnectionError"]


def test_late_answer_is_a_time_out_and_leaves_no_connection(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model(after=30).serve() as model:
    print(await failure(ask(model.url, max_retries=0, timeout=0.2)))
    print(len(connections._http._transport.client.connector._acquired))
""") == ["APITimeoutError", "0"]


def test_request_that_the_model_does_not_read_is_a_time_out(run: Callable[..., list[str]]) -> None:
    assert run("""
long = [{"role": "user", "content": "x" * 30_000_000}]
async with Model(reads=False).serve() as model:
    print(await failure(ask(model.url, messages=long, max_retries=0, timeout=0.2)))
    print(len(connections._http._transport.client.connector._acquired))
""") == ["APITimeoutError", "0"]


@pytest.mark.parametrize("broken", ["0", "zz\\r\\n"], ids=["incomplete", "malformed"])
def test_stream_that_breaks_is_a_protocol_error(run: Callable[..., list[str]], broken: str) -> None:
    assert run(f"""
head = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
event = b"data: " + json.dumps(ANSWER | {{"object": "chat.completion.chunk", "choices": []}}).encode() + b"\\n\\n"
chunk = b"%x\\r\\n%s\\r\\n" % (len(event), event)
async def stream():
    async with await client(model.url).chat.completions.create(model="m", messages=MESSAGES, stream=True) as events:
        async for each in events:
            print(each.id)
async with Model(head + chunk, then=b"{broken}", closes=True).serve() as model:
    print(await failure(stream()))
    print(len(connections._http._transport.client.connector._acquired))
""") == ["c-1", "RemoteProtocolError", "0"]


def test_answer_that_comes_to_an_idle_connection_is_not_the_next_calls(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model(then=response(BODY.replace(b"hello", b"another user's"))).serve() as model:
    for _ in range(3):
        print(await ask(model.url))
        await asyncio.sleep(0.3)
    print(len(model.heads), model.connections)
""") == ["hello", "hello", "hello", "3 3"]


def test_compressed_answer_is_read(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model(response(gzip.compress(BODY), "Content-Encoding: gzip")).serve() as model:
    print(await ask(model.url))
    print("accept-encoding: gzip" in model.heads[0].lower())
""") == ["hello", "True"]


def test_answer_with_a_long_header_is_read(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model(response(BODY, "X-Policy: " + 50_000 * "x")).serve() as model:
    print(await ask(model.url))
""") == ["hello"]


def test_user_and_password_of_the_address_are_sent_as_httpx_sends_them(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model().serve() as model:
    print(await ask(model.url.replace("//", "//me:secret@")))
    print([line for line in model.heads[0].splitlines() if line.lower().startswith("authorization")][0][15:])
""") == ["hello", "Basic bWU6c2VjcmV0"]


def test_redirect_is_followed(run: Callable[..., list[str]]) -> None:
    assert run(r"""
async with Model().serve() as model, Model().serve() as other:
    head = f"HTTP/1.1 307 Moved\r\nLocation: {model.url}/chat/completions\r\nContent-Length: 0\r\n\r\n"
    other.answer = head.encode()
    print(await ask(other.url))
""") == ["hello"]


def test_proxy_of_the_environment_is_used_except_for_no_proxy(run: Callable[..., list[str]]) -> None:
    assert run("""
async with Model().serve() as proxy, Model().serve() as model:
    os.environ |= {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "127.0.0.1"}
    print(await ask("http://models.example/v1"))
    print(await ask(model.url))
    print(proxy.heads[0].splitlines()[0])
    print(len(proxy.heads), len(model.heads))
""") == ["hello", "hello", "POST http://models.example/v1/chat/completions HTTP/1.1", "1 1"]


def test_certificates_are_those_of_ssl_cert_file(run: Callable[..., list[str]], certificates: Certificates) -> None:
    call = f"""
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("{certificates.certificate}", "{certificates.key}")
async with Model().serve(ssl=context) as model:
    url = f"https://localhost:{{model.port}}/v1"
    print(await failure(ask(url, max_retries=0)), len(model.heads))
"""
    assert run(call) == ["APIConnectionError 0"]
    assert run(call, SSL_CERT_FILE=str(certificates.authority)) == ["no error 1"]


def test_call_costs_no_more_with_many_in_flight(run: Callable[..., list[str]]) -> None:
    # CPU time of this process, which serves as well; with httpx's pool it was ten times as much.
    few, many = map(
        float,
        run("""
async def cost(in_flight, each):
    began = time.process_time()
    for _ in range(each):
        await asyncio.gather(*(ask(model.url) for _ in range(in_flight)))
    return (time.process_time() - began) / (in_flight * each)
async with Model(after=0.3).serve() as model:
    await asyncio.gather(*(ask(model.url) for _ in range(200)))
    print(await cost(10, 10))
    print(await cost(200, 2))
"""),
    )
    assert many < 3 * few
