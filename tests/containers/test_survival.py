"""Containers that are killed, stopped and taken away lose nothing. These are the images that operators run."""

from __future__ import annotations

import pytest

from local_stack.containers import ContainerStack, Producer, run, until

SLOW = "[[latency:6000]]"


@pytest.fixture
def producer(stack: ContainerStack) -> Producer:
    stack.up()
    stack.send("My name is Ada.")
    return Producer(stack)


def _exit_code(stack: ContainerStack, service: str) -> int:
    return int(stack.inspect(service)["State"]["ExitCode"])


def test_a_bridge_killed_in_a_turn_answers_once_after_its_restart(stack: ContainerStack, producer: Producer) -> None:
    before = stack.inspect("letta-bridge")
    task = producer.push(f"What is my name? {SLOW}")
    producer.wait_taken()
    # From outside: within its container, a first process cannot be killed. `docker kill` would count as an operator's.
    kill = f"import os; os.kill({before['State']['Pid']}, 9)"
    words = ["docker", "run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python"]
    run([*words, before["Config"]["Image"], "-c", kill])
    until(lambda: stack.inspect("letta-bridge")["RestartCount"] > before["RestartCount"], "docker restarted nothing")
    assert producer.reply(task)["response_text"] == "Your name is Ada."
    later = producer.push("What is my name?")
    assert producer.reply(later)["response_text"] == "Your name is Ada."
    assert producer.replies(task) == 1


@pytest.mark.parametrize(
    ("service", "memory", "source"),
    [
        ("letta-bridge", "permanent", "letta"),
        ("letta", "permanent", "letta"),
        ("memory-python", "temporary", "memory-python"),
    ],
)
def test_a_stop_answers_the_turn_in_flight(
    service: str, memory: str, source: str, stack: ContainerStack, producer: Producer
) -> None:
    task = producer.push(f"What is my name? {SLOW}", memory_type=memory)
    producer.wait_taken()
    stack.compose("stop", service)
    assert _exit_code(stack, service) == 0
    reply = producer.reply(task)
    assert (reply["status"], reply["source"]) == ("ok", source)
    assert not reply.get("canned")


@pytest.mark.parametrize("service", ["letta-bridge", "memory-python", "letta", "scripted-model"])
def test_a_stop_during_the_start_takes_no_grace(service: str, stack: ContainerStack) -> None:
    """A killed container would end with 137."""
    stack.up()
    stack.compose("restart", service)
    stack.compose("stop", service)
    assert _exit_code(stack, service) in {0, 128 + 15}


def test_down_and_up_keep_memory(stack: ContainerStack, producer: Producer) -> None:
    stack.compose("stop", "--timeout", "60")
    codes = {service: _exit_code(stack, service) for service in stack.services()}
    # The scripted model's server ends, when it is done, by the signal that it got.
    assert codes.pop("scripted-model") in {0, 128 + 15}
    assert codes == dict.fromkeys(codes, 0)
    stack.down()
    assert stack.services() == []
    stack.up()
    assert producer.reply(producer.push("What is my name?"))["response_text"] == "Your name is Ada."


def test_two_stacks_on_one_folder_do_not_destroy_its_data(stack: ContainerStack, producer: Producer) -> None:
    """Under another name, as an operator gets it with COMPOSE_PROJECT_NAME or another overlay."""
    twin = ["docker", "compose", "--project-name", f"{stack.project}-twin"]
    before = {service: stack.inspect(service)["State"]["StartedAt"] for service in ("postgres", "redis")}
    try:
        with pytest.raises(AssertionError):
            run([*twin, "up", "--detach", "--wait", *before], cwd=stack.root, AIVTUBER_REDIS_PORT="0")
        said = run([*twin, "logs", "--no-color"], cwd=stack.root)
        for program, folder in (("start", "/data"), ("docker-entrypoint.sh", "/var/lib/postgresql/data")):
            assert f"{program}: another container uses {folder}" in said
    finally:
        run([*twin, "down", "--timeout", "5"], cwd=stack.root)
    assert {service: stack.inspect(service)["State"]["StartedAt"] for service in before} == before
    assert producer.reply(producer.push("What is my name?"))["response_text"] == "Your name is Ada."
