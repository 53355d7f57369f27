"""Stacks in containers, for the tests marked ``containers``: `.ci/images` runs them, `.ci/engine` without a docker."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local_stack.containers import ContainerStack, missing
from local_stack.programs import CHECKOUT

_MODEL_WITH_A_KEY = """
services:
  scripted-model:
    entrypoint: [python, /opt/guarded_model.py]
    command: []
    volumes: ["./tests/containers/guarded_model.py:/opt/guarded_model.py:ro"]
"""

MakeStack = Callable[..., ContainerStack]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; one stack after the other, whatever the number of workers."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.xdist_group("containers"))


@pytest.fixture(scope="session")
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeStack]:
    """`make_stack("name")`: a copy of the checkout, prepared by nobody yet; its model wants the key ``sk-right``."""
    if (why := missing()) is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no containers here: {why}")
    root = tmp_path_factory.mktemp("stacks")
    with ExitStack() as held:

        def make(name: str) -> ContainerStack:
            stack = ContainerStack(root / name, f"bridge-test-{name}")
            (stack.root / "docker-compose.override.yml").write_text(_MODEL_WITH_A_KEY, "utf-8")
            (stack.root / "tests/containers/guarded_model.py").chmod(0o644)
            held.callback(shutil.rmtree, stack.root, ignore_errors=True)
            held.callback(stack.remove)
            return stack

        yield make


@pytest.fixture(scope="session")
def stack(make_stack: MakeStack) -> ContainerStack:
    """The stack of the first try, running, with the right key."""
    made = make_stack("whole")
    made.prepare("demo", OPENAI_API_KEY="sk-right")
    made.up()
    return made


@pytest.fixture(scope="session")
def shown() -> Callable[[str, str], str]:
    """`shown("docs/operations.md", "pg_dump")`: the one command in the document's blocks that matches."""

    def find(document: str, pattern: str) -> str:
        text = (CHECKOUT / document).read_text("utf-8")
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        [found] = {re.sub(r"\s+# .*", "", line) for line in lines if re.search(pattern, line)}
        return found

    return find
