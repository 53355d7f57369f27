"""LangGraph on every checkpoint store: the public conformance suite, what that does not ask, and a killed process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import operator
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.file_store import FileCheckpoints
from shared_utils.persistence.checkpoints.memory_store import InMemoryCheckpoints
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.langgraph import CheckpointSaver

# The stores have a suite of their own on every engine; what follows from it needs no more than these.
_ON_TWO = pytest.mark.parametrize(
    "engine", ["memory", pytest.param("postgresql", marks=pytest.mark.integration)], indirect=True
)
_EXAMPLE = Path(__file__).parents[3] / "examples" / "langgraph_resume.py"


@pytest.fixture
def _store(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> Any:
    match engine:
        case "memory":
            return InMemoryCheckpoints()
        case "file":
            return FileCheckpoints(tmp_path / "checkpoints.sqlite")
        case _:
            return DatabaseCheckpoints(request.getfixturevalue("database"))


@pytest.fixture
async def saver(_store: Any) -> AsyncIterator[CheckpointSaver]:
    saver = CheckpointSaver(_store)
    await saver.setup()
    yield saver
    await _store.close()


@pytest.fixture
async def quick() -> AsyncIterator[CheckpointSaver]:
    """A saver in memory, for what no engine does differently."""
    store = InMemoryCheckpoints()
    yield CheckpointSaver(store)
    await store.close()


def thread(name: Any, **more: Any) -> Any:
    return {"configurable": {"thread_id": name, **more}}


def checkpoint(name: str, **changes: Any) -> Any:
    known = {
        "v": 1,
        "id": name,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {},
        "channel_versions": {},
        "versions_seen": {},
        "updated_channels": None,
    }
    return {**known, **changes}


async def test_the_public_suite_passes_completely(saver: CheckpointSaver, engine: str, record_property: Any) -> None:
    @checkpointer_test(name=f"CheckpointSaver on {engine}")
    async def registered() -> AsyncIterator[Any]:
        yield saver

    report = await validate(registered)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        report.print_report()
    record_property("report", text.getvalue())
    results = report.to_dict()["results"]
    assert set(results) == {capability.value for capability in ALL_CAPABILITIES}
    assert {name: result["failures"] for name, result in results.items() if not result["passed"]} == {}
    assert report.conformance_level() == "FULL"


class _Log(TypedDict):
    lines: Annotated[
        list[Any],
        DeltaChannel(lambda state, writes: [*state, *(x for w in writes for x in w)], list, snapshot_frequency=3),
    ]
    count: Annotated[int, operator.add]


def _delta_graph(checkpointer: Any) -> Any:
    """Two tasks a step that both write one channel, of which only every third change is stored whole."""
    builder = StateGraph(_Log)
    builder.add_node("a", lambda state: {"lines": [f"a{state['count']}"], "count": 1})
    builder.add_node("b", lambda state: {"lines": [f"b{state['count']}"]})
    builder.add_edge(START, "a")
    builder.add_edge(START, "b")
    return builder.compile(checkpointer=checkpointer)


async def test_delta_channels_survive_pruning_and_copying(saver: CheckpointSaver) -> None:
    config = thread("delta")
    ours, theirs = _delta_graph(saver), _delta_graph(InMemorySaver())
    for number in range(5):
        for graph in (ours, theirs):
            await graph.ainvoke({"lines": [f"in{number}"], "count": 0}, config)
    expected = [found.values async for found in theirs.aget_state_history(config)]
    assert [found.values async for found in ours.aget_state_history(config)] == expected
    assert len(expected[0]["lines"]) == 15

    await saver.aprune(["delta"])
    left = [found.values async for found in ours.aget_state_history(config)]
    assert left == expected[: len(left)]
    assert 1 < len(left) < len(expected), "what the latest is built on stays, and no more"

    await saver.acopy_thread("delta", "copied")
    await saver.adelete_thread("delta")
    await ours.ainvoke({"lines": ["more"], "count": 0}, thread("copied"))
    assert (await ours.aget_state(thread("copied"))).values["lines"][:16] == [*expected[0]["lines"], "more"]


@_ON_TWO
async def test_parallel_writes_of_one_channel_come_back_in_the_order_of_their_tasks(saver: Any) -> None:
    for name, parent in (("1", None), ("2", "1")):
        config = thread("parallel", checkpoint_ns="", **({"checkpoint_id": parent} if parent else {}))
        await saver.aput(config, checkpoint(name), {"source": "loop", "step": 0, "parents": {}}, {})
    place = thread("parallel", checkpoint_ns="", checkpoint_id="1")
    await saver.aput_writes(place, [("c", "second")], "0000", "~pull, 2")
    await saver.aput_writes(place, [("c", "first")], "ffff", "~pull, 1")
    await saver.aput_writes(place, [("c", "input")], "ffff-input")
    found = await saver.aget_tuple(place)
    assert [value for _, _, value in found.pending_writes] == ["input", "first", "second"]
    history = await saver.aget_delta_channel_history(
        config=thread("parallel", checkpoint_ns="", checkpoint_id="2"), channels=["c"]
    )
    assert [value for _, _, value in history["c"]["writes"]] == ["input", "first", "second"]
    assert "seed" not in history["c"]


@_ON_TWO
async def test_an_interrupted_graph_continues_with_the_answer(saver: CheckpointSaver) -> None:
    class State(TypedDict):
        said: str

    builder = StateGraph(State)
    builder.add_node("ask", lambda _: {"said": interrupt("who?")})
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=saver)
    paused = await graph.ainvoke({"said": ""}, thread("ask"))
    assert [found.value for found in paused["__interrupt__"]] == ["who?"]
    assert await graph.ainvoke(Command(resume="小明"), thread("ask")) == {"said": "小明"}


@_ON_TWO
async def test_two_runs_on_one_thread_make_two_branches(saver: Any) -> None:
    class State(TypedDict):
        said: Annotated[list[Any], operator.add]

    builder = StateGraph(State)
    builder.add_node("echo", lambda state: {"said": [f"heard {state['said'][-1]}"]})
    builder.add_edge(START, "echo")
    graph = builder.compile(checkpointer=saver)
    await graph.ainvoke({"said": ["root"]}, thread("two"))
    root = (await saver.aget_tuple(thread("two"))).config
    await asyncio.gather(*(graph.ainvoke({"said": [name]}, root) for name in ("left", "right")))
    ends = [
        found.checkpoint["channel_values"]["said"]
        async for found in saver.alist(thread("two", checkpoint_ns=""))
        if found.metadata["step"] == 4
    ]
    assert sorted(ends) == [["root", "heard root", name, f"heard {name}"] for name in ("left", "right")]


async def test_lists_go_over_pages_and_threads(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_utils.persistence.langgraph.saver._CHECKPOINTS_PER_PAGE", 2)
    for name in ("1", "2", "3"):
        for thread_id in ("t", "u"):
            await quick.aput(thread(thread_id, checkpoint_ns=""), checkpoint(name), {"step": int(name)}, {})
    every = [(found.checkpoint["id"], found.config["configurable"]["thread_id"]) async for found in quick.alist(None)]
    assert sorted(every) == sorted((name, thread_id) for name in "123" for thread_id in "tu")
    assert [name for name, _ in every] == ["3", "3", "2", "2", "1", "1"]
    assert [found.checkpoint["id"] async for found in quick.alist(thread("t"), limit=3)] == ["3", "2", "1"]
    assert [found.checkpoint["id"] async for found in quick.alist(thread("t"), limit=0)] == []
    assert [found.checkpoint["id"] async for found in quick.alist(thread("t", checkpoint_id="2"))] == ["2"]
    found = quick.alist(None, filter={"step": 2}, before=thread("t", checkpoint_id="3"), limit=1)
    assert [found.checkpoint["id"] async for found in found] == ["2"]


async def test_values_that_a_cleanup_took_are_stored_again(quick: Any) -> None:
    versions = {"kept": "1", "gone": "1"}
    values = {"kept": "k", "gone": "g", "loose": "in the state itself"}
    await quick.aput(thread("t", checkpoint_ns=""), checkpoint("1"), {}, {})
    await quick.aput(
        thread("t", checkpoint_ns="", checkpoint_id="1"),
        checkpoint("2", channel_values=values, channel_versions=versions),
        {},
        {"kept": "1"},
    )
    assert (await quick.aget_tuple(thread("t"))).checkpoint["channel_values"] == values


def test_versions_grow_and_no_two_writers_make_the_same() -> None:
    saver = CheckpointSaver(InMemoryCheckpoints())
    first, second = saver.get_next_version(None, None), saver.get_next_version(None, None)
    assert first != second
    assert saver.get_next_version(first, None) > max(first, second)
    assert saver.get_next_version("9.x", None) < saver.get_next_version("10.x", None)


async def test_synchronous_methods_work_from_another_thread(quick: Any) -> None:
    def use() -> Any:
        config = quick.put(
            thread("t", checkpoint_ns=""), checkpoint("1"), {"source": "input", "step": -1, "run_id": "r"}, {}
        )
        quick.put_writes(config, [("c", 1)], "task")
        quick.copy_thread("t", "u")
        quick.prune(["u"])
        quick.delete_thread("u")
        assert quick.get_delta_channel_history(config=config, channels=["c"]) == {"c": {"writes": []}}
        found = [quick.get_tuple(config), *quick.list(thread("t"))]
        quick.delete_for_runs(["r"])
        return found, quick.get_tuple(config)

    found, gone = await asyncio.to_thread(use)
    assert [one.pending_writes for one in found] == [[("task", "c", 1)]] * 2
    assert gone is None


async def test_synchronous_methods_say_why_they_cannot_wait_for_their_own_loop(quick: Any) -> None:
    with pytest.raises(RuntimeError, match="ainvoke"):
        quick.get_tuple(thread("t"))


def test_synchronous_methods_need_a_loop() -> None:
    with pytest.raises(RuntimeError, match="ainvoke"):
        CheckpointSaver(InMemoryCheckpoints()).get_tuple(thread("t"))


def test_nothing_else_needs_the_extra() -> None:
    source = Path(__file__).parents[3] / "src"
    importing = re.compile(r"^\s*(?:from|import) (?:shared_utils\.persistence\.)?lang(?:graph|chain)", re.MULTILINE)
    found = {path.parent.name for path in source.rglob("*.py") if importing.search(path.read_text(encoding="utf-8"))}
    assert found == {"langchain", "langgraph"}


@pytest.mark.parametrize("nothing", [None, "", True, 1.5, ["a"]])
async def test_configuration_without_a_thread_id_is_refused(quick: Any, nothing: Any) -> None:
    """Everybody who forgot their thread would share one with whoever is called "None"."""
    configured = {"configurable": {"thread_id": nothing, "checkpoint_ns": ""}}
    await quick.aput(thread("None"), checkpoint("1"), {}, {})
    with pytest.raises(ValueError, match="thread_id"):
        await quick.aput(configured, checkpoint("2"), {}, {})
    with pytest.raises(ValueError, match="thread_id"):
        await quick.aget_tuple(configured)
    with pytest.raises(ValueError, match="thread_id"):
        [one async for one in quick.alist(configured)]
    for refused in (
        quick.adelete_thread(nothing),
        quick.acopy_thread(nothing, "x"),
        quick.acopy_thread("None", nothing),
        quick.aprune([nothing]),
        quick.adelete_for_runs([nothing]),
    ):
        with pytest.raises(ValueError, match="names nothing"):
            await refused
    assert [found.config["configurable"]["thread_id"] async for found in quick.alist(None)] == ["None"]


async def test_a_number_or_a_uuid_names_a_thread(quick: Any) -> None:
    name = uuid.uuid4()
    for given in (7, name):
        await quick.aput(thread(given), checkpoint("1"), {}, {})
        assert (await quick.aget_tuple(thread(str(given)))).checkpoint["id"] == "1"


async def test_wrong_use_is_named(quick: Any) -> None:
    with pytest.raises(ValueError, match="keep_latest or delete"):
        await quick.aprune(["t"], strategy="all")
    with pytest.raises(ValueError, match="names none"):
        await quick.aput_writes(thread("t"), [("c", 1)], "task")


@pytest.mark.acceptance
@pytest.mark.integration
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_killed_process_is_continued_by_another(database_config: DatabaseConfig) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "DB_"))}
    environ |= {"DATABASE_URL": database_config.conninfo, "DB_SCHEMA": database_config.schema_name}

    async def run(*arguments: Any) -> Any:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(_EXAMPLE),
            "tea",
            *arguments,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    killed = await run("--pause-at", "brew")
    seen: list[Any] = []
    try:
        async with asyncio.timeout(60):
            while not seen or not seen[-1].startswith("brew"):
                line = await killed.stdout.readline()
                assert line, seen
                if b" done)" in line:  # the rest is a log
                    seen.append(line.decode())
    finally:
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
    assert [line.split(" …")[0] for line in seen] == ["boil water", "warm the pot", "brew"]

    second = await run()
    async with asyncio.timeout(60):
        output, _ = await second.communicate()
    assert second.returncode == 0, output.decode()
    lines = [line for line in output.decode().splitlines() if " done)" in line or ": process " in line]
    assert lines == [
        "brew … (2 done)",
        "pour … (3 done)",
        *(f"{name}: process {killed.pid}" for name in ("boil water", "warm the pot")),
        *(f"{name}: process {second.pid}" for name in ("brew", "pour")),
    ]
