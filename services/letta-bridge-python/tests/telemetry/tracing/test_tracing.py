"""Spans of turns: their names, attributes and relations, and that nothing is paid for while they are off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is the extra 'otel'")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from letta_bridge.errors import LeaseLost, LettaUnavailable, TurnCancelled
from letta_bridge.letta import AgentSpec, LettaServers, TurnAnswer, TurnMessage, Usage
from letta_bridge.request_queue import FetchResult, Outcome, Settlement, Turn
from letta_bridge.settings import BridgeSettings
from letta_bridge.telemetry.metrics import BridgeMetrics, LettaMetrics
from letta_bridge.telemetry.middleware import instrumented
from letta_bridge.telemetry.tracing import Tracing
from letta_bridge.telemetry.tracing.calls import server_attributes
from letta_bridge.telemetry.wiring import Telemetry
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.testing.turn_listener import Heard
from letta_bridge.turn.intake import Intake
from letta_bridge.turn.message_processor import MessageProcessor
from shared_utils.errors import SettingsError

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
REDIS = {"server.address": "redis", "server.port": 6379}


class Traced:
    """A rig whose parts are traced."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = tracing = Tracing(
            provider,
            requests="letta_requests",
            responses="letta_responses",
            fallback_queue="user_input_queue",
            redis=REDIS,
        )
        letta = instrumented(rig.letta, tracing.letta("http://letta:8283", "openai/m"))
        rig.servers = LettaServers({"letta": letta}, breaker=rig.breaker)
        rig.delivery_context = replace(rig.delivery_context, servers=rig.servers, recorder=tracing)
        self.queue = rig.queue()
        fallback = instrumented(rig.fallback, tracing.fallback())
        processor = MessageProcessor(
            rig.settings,
            rig.delivery_context,
            fallback,
            self.queue,
            consent=rig.consent,
            streams=rig.streams(self.queue),
        )
        process = tracing.process(processor.process)
        rig.intake = lambda _name: Intake(self.queue, process, rig.settings.queue, recorder=tracing)

    def spans(self) -> Any:
        """Name → its only span."""
        spans = self.exporter.get_finished_spans()
        assert len({span.name for span in spans}) == len(spans), [span.name for span in spans]
        return {span.name: span for span in spans}


@pytest.fixture
def traced(rig: Rig) -> Iterator[Traced]:
    traced = Traced(rig)
    yield traced
    traced.tracing.close()


async def test_a_turn_is_received_processed_sent_and_acknowledged(traced: Traced) -> None:
    traced.rig.push("t1", "ada", "hi", meta={"traceparent": TRACEPARENT})
    await traced.rig.work_off()
    spans = traced.spans()
    agent = next(name for name in spans if name.startswith("create_agent bridge-"))
    assert set(spans) == {
        "receive letta_requests",
        "process letta_requests",
        agent,
        "invoke_agent",
        "send letta_responses",
        "ack letta_requests",
    }
    process = spans["process letta_requests"]
    for child in (agent, "invoke_agent", "send letta_responses", "ack letta_requests"):
        assert spans[child].parent.span_id == process.context.span_id, child
    assert process.parent is None
    for linked in ("process letta_requests", "receive letta_requests"):
        assert [f"{link.context.trace_id:032x}" for link in spans[linked].links] == [TRACE]


def test_turns_of_a_wait_for_arrivals_get_a_receive_span(traced: Traced) -> None:
    payload = json.dumps({"task_id": "t1", "user_id": "ada", "meta": {"traceparent": TRACEPARENT}}).encode()
    traced.tracing.arrived([Turn("1-1", "ada", 1, 1, 1, payload)])
    traced.tracing.arrived([])
    (receive,) = traced.spans().values()
    assert receive.name == "receive letta_requests"
    assert receive.start_time == receive.end_time, "the wait belongs to nobody"
    assert [f"{link.context.trace_id:032x}" for link in receive.links] == [TRACE]


async def test_names_and_attributes_are_the_conventions(traced: Traced) -> None:
    traced.rig.push("t1", "ada", "hi")
    await traced.rig.work_off()
    spans = traced.spans()
    common = {"messaging.system": "redis", **REDIS}
    requests = {**common, "messaging.destination.name": "letta_requests"}

    def operation(name: str, kind: str) -> dict[str, Any]:
        return {"messaging.operation.name": name, "messaging.operation.type": kind}

    receive, process = spans["receive letta_requests"], spans["process letta_requests"]
    send, ack = spans["send letta_responses"], spans["ack letta_requests"]
    assert receive.attributes == {
        **requests,
        **operation("receive", "receive"),
        "messaging.batch.message_count": 1,
    }
    assert process.attributes == {
        **requests,
        **operation("process", "process"),
        "messaging.message.id": "t1",
        "messaging.message.body.size": len(b'{"task_id": "t1", "user_id": "ada", "content": "hi"}'),
    }
    assert ack.attributes == {**requests, **operation("ack", "settle"), "messaging.message.id": "t1"}
    body_size = send.attributes["messaging.message.body.size"]
    assert body_size > 50
    assert send.attributes == {
        **common,
        **operation("send", "send"),
        "messaging.destination.name": "letta_responses",
        "messaging.message.id": "t1",
        "messaging.message.body.size": body_size,
    }
    kinds = [span.kind for span in (receive, process, send, ack)]
    assert kinds == [SpanKind.CLIENT, SpanKind.CONSUMER, SpanKind.PRODUCER, SpanKind.CLIENT]


async def test_agent_span_has_model_finish_reason_and_tokens(traced: Traced) -> None:
    class Counting:
        async def send(self, _agent_id: str, _messages: list[Any], *, timeout: int) -> TurnAnswer:
            return TurnAnswer("hi", "max_steps", Usage(600, 7, 607))

    letta = instrumented(Counting(), traced.tracing.letta("https://letta/", "openai/m"))
    await letta.send("agent-1", [], timeout=1)
    span = traced.spans()["invoke_agent"]
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "letta",
        "gen_ai.agent.id": "agent-1",
        "gen_ai.request.model": "openai/m",
        "gen_ai.response.finish_reasons": ("max_steps",),
        "gen_ai.usage.input_tokens": 600,
        "gen_ai.usage.output_tokens": 7,
        "server.address": "letta",
        "server.port": 443,
    }


async def test_a_listener_passes_through_metrics_and_spans(traced: Traced) -> None:
    letta = InMemoryLetta()
    spec = AgentSpec("n", ("bridge",), "m", None, "letta_v1_agent", (), ())
    port = instrumented(letta, LettaMetrics(BridgeMetrics(), "m"), traced.tracing.letta("http://letta:8283", "m"))
    agent_id = (await port.create_agent(spec)).agent_id
    heard = Heard()
    answer = await port.send(agent_id, [TurnMessage("user", "hello", "o")], timeout=5, listener=heard)
    assert heard.messages == [answer.text]
    letta.fail_next(TurnCancelled())
    with pytest.raises(TurnCancelled):
        await port.send(agent_id, [TurnMessage("user", "hello", "o")], timeout=5, listener=heard)
    last = traced.exporter.get_finished_spans()[-1]
    assert (last.name, last.attributes and last.attributes["error.type"]) == ("invoke_agent", "cancelled")


async def test_spans_contain_neither_users_nor_message_texts(traced: Traced) -> None:
    traced.rig.push("t1", "secret-user", "secret-words")
    traced.rig.push("t2", "secret-user", "secret-words", meta={"memory_type": "temporary"})
    await traced.rig.work_off()
    assert "secret" not in "".join(span.to_json() for span in traced.exporter.get_finished_spans())


async def test_a_failure_names_itself(traced: Traced) -> None:
    class Failing:
        async def send(self, _agent_id: str, _messages: list[Any], *, timeout: int) -> None:
            raise LettaUnavailable(busy=True)

    letta = instrumented(Failing(), traced.tracing.letta("http://letta:8283", "m"))
    with pytest.raises(LettaUnavailable):
        await letta.send("agent-1", [], timeout=1)
    span = traced.spans()["invoke_agent"]
    assert span.attributes["error.type"] == "busy"
    assert not span.status.is_ok


async def test_an_error_reply_makes_an_error_of_the_span(traced: Traced) -> None:
    traced.rig.push("t1", "ada", "")
    await traced.rig.work_off()
    span = traced.spans()["process letta_requests"]
    assert span.attributes["error.type"] == "empty_content"
    assert not span.status.is_ok


async def test_memory_python_is_handed_the_trace(traced: Traced) -> None:
    traced.rig.push(
        "t1", "ada", "hi", meta={"memory_type": "temporary", "traceparent": TRACEPARENT, "tracestate": "a=b", "mine": 1}
    )
    await traced.rig.work_off()
    spans = traced.spans()
    send = spans["send user_input_queue"]
    assert send.parent.span_id == spans["process letta_requests"].context.span_id
    handed = json.loads(next(iter(traced.rig.fallback.handed.values())).model_dump_json(exclude_none=True))
    expected = f"00-{send.context.trace_id:032x}-{send.context.span_id:016x}-{send.context.trace_flags:02x}"
    assert handed["meta"] == {"memory_type": "temporary", "traceparent": expected, "mine": 1}


@pytest.mark.parametrize(
    "meta",
    [{"traceparent": "nonsense"}, {"traceparent": 7}, {"traceparent": TRACEPARENT[:-3]}, [], "traceparent", None],
)
async def test_a_wrong_trace_context_is_none(traced: Traced, meta: Any) -> None:
    traced.rig.push("t1", "ada", "hi", meta=meta, note='"traceparent"')
    await traced.rig.work_off()
    assert not traced.spans()["process letta_requests"].links


async def test_a_lost_lease_leaves_nothing_behind(traced: Any) -> None:
    async def lost(_turn: Turn, _lease: Any) -> None:
        raise LeaseLost

    turn = Turn("1-1", "ada", 1, 1, 1, b"{}")
    with pytest.raises(LeaseLost):
        await traced.tracing.process(lost)(turn, None)
    assert traced.spans()["process letta_requests"].attributes["error.type"] == "lease_lost"
    assert not traced.tracing._processed


def test_a_refused_settlement_is_reported_and_sends_nothing(traced: Any) -> None:
    settlement = Settlement("1-1", Outcome.LETTA, task_id="t1", reply=b"{}")
    traced.tracing.settled_and_fetched([settlement], FetchResult([False]), 0.1)
    assert set(traced.spans()) == {"ack letta_requests"}
    assert traced.spans()["ack letta_requests"].attributes["error.type"] == "lease_lost"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:pw@host:1/0", {"server.address": "host", "server.port": 1}),
        ("redis://host", {"server.address": "host", "server.port": 6379}),
        ("redis+sentinel://a:1,b:2/name", {}),
        ("unix:///run/redis.sock", {}),
    ],
)
def test_a_servers_address_is_reported_without_its_password(url: str, expected: dict[str, Any]) -> None:
    assert server_attributes(url) == expected


@pytest.mark.process
def test_traces_are_off_by_default_and_not_even_imported() -> None:
    program = (
        "import sys, letta_bridge.bridge as b; from letta_bridge.settings import BridgeSettings;"
        "from letta_bridge.telemetry.wiring import Telemetry; Telemetry(BridgeSettings());"
        "costly = ('opentelemetry.sdk.trace', 'letta_bridge.telemetry.tracing');"
        "assert not [m for m in sys.modules if m.startswith(costly)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.process
def test_tracing_without_the_extra_names_the_package() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None;"
        "from letta_bridge.settings import BridgeSettings; from letta_bridge.telemetry.wiring import Telemetry;"
        "Telemetry(BridgeSettings.model_validate({'telemetry': {'traces': True}}))"
    )
    failed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert SettingsError.__name__ in failed.stderr
    assert "install letta-bridge[otel]" in failed.stderr


def test_switched_on_everything_is_wrapped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    telemetry = Telemetry(BridgeSettings.model_validate({"telemetry": {"traces": True}}))
    try:
        assert telemetry.recorder is not telemetry.metrics
        assert telemetry.letta("http://letta", rig.letta).send.__qualname__.startswith("LettaSpans")
        assert telemetry.fallback(rig.fallback).answer.__qualname__.startswith("FallbackSpans")
    finally:
        telemetry.close()
