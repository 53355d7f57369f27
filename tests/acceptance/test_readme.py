"""The producer and the conversation in either README, and the quickstart's, run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local_stack.fixtures import BridgeFactory
from local_stack.letta import Letta
from local_stack.programs import environment, program

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("document", "fact", "answer"),
    [
        ("README.md", "My name is Ada.", "Your name is Ada."),
        ("README.zh-CN.md", "我叫小明", "你叫小明。"),
        ("docs/joining.md", "My name is Ada.", "Your name is Ada."),
    ],
)
def test_the_documents_producer_gets_a_reply(
    document: str, fact: str, answer: str, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    (program,) = _programs(document)
    (question,) = re.findall(r'"(What is my name\?|我叫什么名字？)"', program)
    _output(program.replace(question, fact), redis_url)
    assert _output(program, redis_url) == answer


@pytest.mark.parametrize(
    ("readme", "answer"),
    [("clients/python/README.md", "Your name is Ada."), ("clients/python/README.zh-CN.md", "你叫小明。")],
)
def test_the_clients_readme_asks_streams_and_follows(
    readme: str, answer: str, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    ask, speak, follow = _programs(readme)
    assert _output(ask, redis_url) == f"{answer} letta"
    listener = """
async def say(text):
    print(text)

assert asyncio.run(speak(say, print)).ok
"""
    assert _output(f"{speak}{listener}", redis_url) == answer
    ends_after_two = """
class Store(dict):
    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        if len(seen := self.setdefault("seen", [])) == 1:
            sys.exit()
        seen.append(value)

asyncio.run(follow(Store(cursor="0-0")))
"""
    user = "ada" if "ada" in ask else "xiaoming"
    assert _output(f"import sys\n{follow}{ends_after_two}", redis_url).splitlines()[-1] == f"{user} {answer}"


def _programs(document: str) -> list[str]:
    found: list[str] = re.findall(r"```python\n(.*?)```", (_ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    return found


def _output(program: str, redis_url: str) -> str:
    """What a program of a document prints, with the address of this test's Redis."""
    address = re.compile(r"redis://127\.0\.0\.1:16379/0")
    assert len(address.findall(program)) == 1
    words = [sys.executable, "-c", address.sub(redis_url, program)]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=90).stdout.strip()


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_conversation_gives_the_shown_answers(
    readme: str, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    text = (_ROOT / readme).read_text(encoding="utf-8")
    (block,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    said = 0
    for shown in block.removeprefix("$ ").split("\n$ "):
        command, _, output = shown.strip().partition("\n")
        told = _bridge(command, redis_url)
        assert told.startswith(output), (command, told)
        said += bool(output)
    assert said == 2


def test_the_quickstarts_commands_work(redis_url: str, letta: Letta, bridge_factory: BridgeFactory) -> None:
    bridge_factory(redis_url, letta)
    text = (_ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    told = [_bridge(command.strip(), redis_url) for command in block.strip().splitlines()]
    assert "oolong" in told[1]
    assert told[2].count("ada") >= 2
    assert "bridges alive        1" in told[3]


def _bridge(command: Any, redis_url: Any) -> Any:
    """What a line of a document says; the stack's address stands in for what `./run bridge` takes from its stack."""
    words = shlex.split(command, comments=True)
    assert words[:2] == ["./run", "bridge"], command
    variables = environment(REDIS_URL=redis_url, DATABASE_URL=None)
    done = subprocess.run(
        [program("letta-bridge"), *words[2:]], env=variables, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
