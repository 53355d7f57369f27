"""The shared replica on Redis or Valkey; ``lua/`` documents each script."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from letta_bridge.consent.shared_choices import COMPLETE, GENERATION, STATE_FIELDS, ReplicaState, parse_entry
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.port import HeldChoice
from letta_bridge.request_queue.scripts import ScriptRunner
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.lua_scripts import Script

_SCAN_COUNT: Final = 500


def _read(name: str) -> Script:
    return Script.read(__package__ or "", "common", name)


_CHOOSE_SCRIPT: Final = _read("choose")
_MERGE_SCRIPT: Final = _read("merge")
_MARK_COMPLETE: Final = _read("mark_complete")


class RedisChoices:
    """See :class:`letta_bridge.consent.shared_choices.SharedChoices`."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._key = keys.choices
        self._scripts = ScriptRunner(client, (keys.choices, keys.requests, keys.incoming, keys.order, keys.opt_ins))

    async def read(self, user_id: str) -> HeldChoice:
        """See the port."""
        return HeldChoice(user_id, *await self._fields(*STATE_FIELDS, user_key(user_id)))

    async def state(self) -> ReplicaState:
        """See the port."""
        return ReplicaState.of(*await self._fields(*STATE_FIELDS))

    async def choose(self, choice: Choice) -> Choice:
        """See the port."""
        return await self._timestamp(choice, state=str(int(choice.permanent_memory)))

    async def timestamped(self, choice: Choice) -> Choice:
        """See the port."""
        return await self._timestamp(choice, state="")

    async def merge(self, choices: Sequence[Choice], *, chosen: bool = False, repeated: bool = False) -> ReplicaState:
        """See the port."""
        arguments: list[str | int] = [_new_generation(), 2 if repeated else int(chosen)]
        for choice in choices:
            arguments += (choice.user_key, int(choice.permanent_memory), choice.chosen_ms)
        return ReplicaState.of(*await self._scripts.run(_MERGE_SCRIPT, *arguments))

    async def entries(self) -> AsyncIterator[Choice]:
        """See the port."""
        found = self._client.hscan_iter(self._key, count=_SCAN_COUNT)
        async for name, entry in cast("AsyncIterator[tuple[bytes, bytes]]", found):
            field = name.decode(errors="replace")
            if field not in STATE_FIELDS and (choice := parse_entry(field, entry)):
                yield choice

    async def mark_complete(self, seen: ReplicaState) -> bool:
        """See the port."""
        return bool(await self._scripts.run(_MARK_COMPLETE, seen.generation, seen.changes) == 1)

    async def mark_incomplete(self) -> None:
        """See the port."""
        await self._client.hdel(self._key, COMPLETE)

    async def begin_generation(self) -> None:
        """See the port."""
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(self._key, GENERATION, _new_generation())
            pipeline.hdel(self._key, COMPLETE)
            await pipeline.execute()

    async def _timestamp(self, choice: Choice, *, state: str) -> Choice:
        arguments = (choice.user_key, state, choice.chosen_ms, _new_generation())
        return replace(choice, chosen_ms=int(await self._scripts.run(_CHOOSE_SCRIPT, *arguments)))

    async def _fields(self, *names: str) -> list[Any]:
        return cast("list[Any]", await self._client.hmget(self._key, list(names)))


def _new_generation() -> str:
    return secrets.token_hex(8)
