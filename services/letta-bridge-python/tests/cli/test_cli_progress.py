"""A command that takes long says what it does, and one that does not says nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from letta_bridge.cli.progress import SlowSteps


async def test_quick_command_prints_no_progress() -> None:
    lines: list[Any] = []
    step = SlowSteps(lines.append, patience=3600)
    step("one")
    step("two")
    await asyncio.sleep(0)
    assert lines == []


async def test_slow_command_prints_its_present_and_later_steps() -> None:
    lines = []
    told = asyncio.Event()

    def write(line: str) -> None:
        lines.append(line)
        told.set()

    step = SlowSteps(write, patience=0)
    step("one")
    step("two")
    async with asyncio.timeout(20):
        await told.wait()
    step("three")
    step("four")
    assert lines == ["… two", "… three", "… four"]
