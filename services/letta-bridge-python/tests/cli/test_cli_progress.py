"""A command that takes long says what it does, and one that does not says nothing."""

from __future__ import annotations

import asyncio

from letta_bridge.cli.progress import SlowSteps


async def test_a_quick_command_says_nothing():
    lines = []
    step = SlowSteps(lines.append, patience=3600)
    step("one")
    step("two")
    await asyncio.sleep(0)
    assert lines == []


async def test_a_slow_command_says_the_step_it_is_at_and_each_later_one():
    lines = []
    told = asyncio.Event()

    def write(line):
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
