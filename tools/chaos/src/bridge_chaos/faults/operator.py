"""An operator's commands during the load; each command has its own promise."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Final

from bridge_chaos.command_line import command, insist
from bridge_chaos.environment import QUEUE
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Load, Task
from bridge_chaos.promises.replies import described
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import wait_until
from local_stack.programs import CONFIG

_NEEDS: Final = parts("operator", "redis", "letta", "bridges")
_STILL_SECONDS: Final = 3.0
_ENDED_SECONDS: Final = 60.0
_RELOADED_SECONDS: Final = 1.0
_QUESTION_COUNT: Final = 4
"""Enough that both bridges are asked."""
_LOAD: Final = Load(messages=9, seconds=9.0)


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "operator/dead-retry",
            "bridges die with tasks that may be handed out only once; 'dead retry --all' requeues them",
            _dead_retry,
            topology=Topology(variables=(("LETTA_BRIDGE_QUEUE_MAX_DELIVERIES", "1"),)),
            load=_LOAD,
            occupies=parts("bridges"),
            needs=parts("operator", "redis", "letta"),
        ),
        Fault("operator/pause", "'pause', three seconds, 'resume'", _pause, load=_LOAD, needs=_NEEDS),
        Fault("operator/drain", "'drain' until all tasks are processed, 'resume'", _drain, load=_LOAD, needs=_NEEDS),
        Fault(
            "operator/reload",
            "SIGHUP with changed, broken, missing and restored settings in turn",
            _reload,
            load=_LOAD,
            occupies=parts("bridges"),
        ),
    ]


def _dead_retry(context: FaultContext) -> None:
    context.strike()
    for step in ("sent", "answered"):
        context.environment.die_at(f"{step}:KILL:1", *context.environment.bridges)
    context.conversation.wait_pushed(_ENDED_SECONDS)
    context.conversation.wait_all(_ENDED_SECONDS)
    buried = _buried(context)
    context.remarks.append(f"{len(buried)} dead letters")
    context.expect("unclear", buried)
    context.conversation.note_retried(buried)
    retried = insist(context, "dead", "retry", "--all")
    context.check("buried", retried.succeeded, str(retried))
    for task in buried:
        context.check(
            "lost",
            context.conversation.observer.wait_for_replies(task, 2, _ENDED_SECONDS),
            f"{task} was retried, and nothing came of it",
            task,
        )


def _buried(context: FaultContext) -> list[Task]:
    with context.environment.client() as client:
        letters: Any = client.lrange(f"{{{QUEUE}}}:dead", 0, -1)
    about = [described(letter) for letter in letters]
    return [Task(str(one.get("user_id")), str(one.get("task_id"))) for one in about]


def _pause(context: FaultContext) -> None:
    """No turn begins between 'pause' and 'resume', and no task is lost."""
    context.strike()
    paused = insist(context, "pause")
    double = context.environment.letta.doubles[0] if context.environment.letta.doubles else None
    if double is not None:
        wait_until(lambda: not double.seen()["at_work"], _ENDED_SECONDS)
        before = double.seen()["turns"]
    context.let_pass(_STILL_SECONDS)
    if double is not None:
        begun = double.seen()["turns"] - before
        context.check("accounts", not begun, f"{begun} turns began while the queue was paused")
    resumed = insist(context, "resume")
    context.check("accounts", paused.succeeded and resumed.succeeded, f"{paused}; {resumed}")


def _drain(context: FaultContext) -> None:
    """The command returns when no turn is in flight; tasks pushed meanwhile wait until 'resume'."""
    context.strike()
    drained = command(context, "drain", "--timeout", f"{_ENDED_SECONDS:g}")
    context.check("accounts", drained.succeeded, str(drained))
    with context.environment.client() as client:
        left = client.hlen(f"{{{QUEUE}}}:turns")
    context.check("accounts", not left, f"{left} turns were in flight when the queue was drained")
    resumed = insist(context, "resume")
    context.check("accounts", resumed.succeeded, str(resumed))


def _reload(context: FaultContext) -> None:
    """Changed settings apply at once; if the new ones cannot be read, the bridge keeps the old ones."""
    environment = context.environment
    whole = json.loads(CONFIG.read_text(encoding="utf-8"))
    without_letta = json.dumps(whole | {"letta": whole.get("letta", {}) | {"enabled": False}})
    speaker = Speaker(context, "reload")
    steps = [
        ("changed", without_letta, "memory-python"),
        ("broken", without_letta[:-9], "memory-python"),
        ("missing", None, "memory-python"),
        ("restored", CONFIG.read_text(encoding="utf-8"), "letta"),
    ]
    context.strike()
    for number, (name, content, source) in enumerate(steps):
        for place, bridge in enumerate(environment.bridges):
            _write(environment.config(place), content)
            os.kill(bridge.pid or 0, signal.SIGHUP)
        context.let_pass(_RELOADED_SECONDS)
        answered = {speaker.ask("Who answers?", f"{number}-{turn}").get("source") for turn in range(_QUESTION_COUNT)}
        text = f"after a SIGHUP with {name} settings {answered} answered, not {source}"
        context.check("accounts", answered == {source}, text, speaker.user)
    for bridge in environment.bridges:
        context.check("accounts", bridge.running, f"{bridge.name} ended at a SIGHUP")


def _write(file: Path, content: str | None) -> None:
    """The file's new content; None removes it."""
    if content is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(content, encoding="utf-8")
