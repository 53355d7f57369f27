"""The first steps of an operator, by the commands that the documents show."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from local_stack.containers import ContainerStack, run, until
from local_stack.programs import CHECKOUT

if TYPE_CHECKING:
    from project_tests.containers.conftest import MakeStack

Shown = Callable[[str, str], str]


def test_up_without_prepare_says_what_to_do_first(make_stack: MakeStack) -> None:
    with pytest.raises(AssertionError, match=r"run \./deploy/prepare first"):
        make_stack("unprepared").compose("up", "--detach", "--wait")


def test_a_folder_that_is_gone_is_not_made_for_root(make_stack: MakeStack) -> None:
    stack = make_stack("folderless")
    stack.prepare("demo")
    (stack.root / "data/memory").rename(stack.root / "data/elsewhere")
    with pytest.raises(AssertionError, match=r"bind source path does not exist: \S+/data/memory"):
        stack.compose("run", "--rm", "--no-deps", "letta-bridge", "--version")
    assert not (stack.root / "data/memory").exists()


def test_one_command_gives_a_stack_without_a_key(make_stack: MakeStack, shown: Shown) -> None:
    stack = make_stack("keyless")
    (stack.root / "docker-compose.override.yml").unlink()
    stack.prepare()  # the copy's name and ports
    stack.shell(shown("README.md", r"prepare demo"))
    assert shown("README.zh-CN.md", r"prepare demo") == shown("README.md", r"prepare demo")
    stack.send("My name is Ada.")
    assert stack.send("What is my name?") == "Your name is Ada."
    said = stack.shell(shown("README.md", r"letta-bridge doctor"))
    assert "FAIL" not in said
    stack.remove()


def test_a_producer_connects_as_the_readme_says(stack: ContainerStack) -> None:
    """The README's own program, with the address that its part about docker names."""
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    [program] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert "redis://:<password>@127.0.0.1:6379/0" in readme
    program = program.replace("redis://127.0.0.1:16379/0", stack.redis_url)
    stack.send("My name is Ada.")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert "Your name is Ada." in done.stdout
    image = f"aivtuber/letta-bridge:{stack.setting('AIVTUBER_TAG')}"
    inside = program.replace(f"127.0.0.1:{stack.setting('AIVTUBER_REDIS_PORT')}", "redis:6379")
    words = ["docker", "run", "--rm", "--network", stack.project, "--entrypoint", "python", image, "-c", inside]
    assert "Your name is Ada." in run(words)


def test_the_administrators_prompt_has_all_rights(stack: ContainerStack, shown: Shown) -> None:
    command = shown("docs/operations.md", r"redis-cli --user admin").replace("exec redis ", "exec -T redis ")
    assert stack.shell(f"echo ACL WHOAMI | {command}").strip() == "admin"
    assert "user bridge on" in stack.shell(f"echo ACL LIST | {command}")


def test_a_missing_and_a_wrong_key_are_named_and_a_new_one_reaches_the_services(
    make_stack: MakeStack, shown: Shown
) -> None:
    stack = make_stack("wrong-key")

    def write(key: str) -> None:
        """As an editor does it: another file in its place, which belongs to whoever edited it."""
        (stack.root / "secrets/new").write_text(key, "utf-8")
        (stack.root / "secrets/new").replace(stack.root / "secrets/openai_api_key.txt")
        stack.shell(shown("docs/operations.md", r"a new key|restart letta memory-python"))
        stack.up()

    def refused() -> str:
        with pytest.raises(AssertionError, match=r"(?s)FAIL +letta\.model .*OPENAI_API_KEY") as doctor:
            stack.bridge("doctor")
        assert "secrets/openai_api_key.txt" in str(doctor.value)
        return str(doctor.value)

    stack.prepare("demo")
    stack.up()
    refused()
    write("\n")
    refused()
    write("sk-wrong\n")
    assert "sk-wrong" not in refused()
    write("sk-right\r\n")
    assert "FAIL" not in stack.bridge("doctor")
    stack.send("My name is Ada.")
    assert stack.send("What is my name?") == "Your name is Ada."
    stack.remove()


def test_an_unhealthy_container_says_why(make_stack: MakeStack, shown: Shown) -> None:
    """Here the bridge, without a Redis: it waits for it, and is not ready."""
    stack = make_stack("unhealthy")
    stack.prepare("demo")
    stack.compose("up", "--detach", "--no-deps", "letta-bridge")
    command = shown("docs/operations.md", r"State\.Health")
    until(lambda: '"redis"' in stack.shell(command), "the health check says nothing")
    said = stack.shell(command)
    assert "/readyz?verbose answers 503" in said
    stack.remove()
