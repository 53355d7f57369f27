"""One client's session after its login.

Every message is answered before the next is read: an extended message goes to the upstream with a Flush. A statement
that openGauss refuses is replaced by one that PostgreSQL refuses, and the client gets openGauss's error instead: so the
upstream's transaction fails, and skips to the Sync, as a real one would.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from opengauss_double import binding, protocol, settings
from opengauss_double.effects import Effects
from opengauss_double.errors import Disconnected, Refusal, UpstreamRefused
from opengauss_double.lookups import UpstreamLookups
from opengauss_double.profiles import Profile
from opengauss_double.protocol import Channel, Message
from opengauss_double.relay import Relay, as_client_sees
from opengauss_double.statements import Statement, analysed, syntax_refusal
from opengauss_double.translate import Effect, SettingChanged, Translated, Translator
from opengauss_double.upstream import Upstream

_log = logging.getLogger(__name__)
_REFUSED = "openGauss refuses this"  # a syntax error in any transaction state
_FLUSH = Message(b"H")
_ANSWERS = {b"P": (b"1",), b"B": (b"2",), b"D": (b"T", b"n"), b"E": (b"C", b"s", b"I"), b"C": (b"3",)}


@dataclass(frozen=True)
class _Prepared:
    effects: tuple[Effect, ...] = ()
    null_where_empty: frozenset[int] = frozenset()


class Session:
    """Serves a client until one side hangs up, or the client stays idle for `session_timeout`."""

    def __init__(self, client: Channel, upstream: Upstream, profile: Profile, mode: str, effects: Effects) -> None:
        self._client = client
        self._upstream = upstream
        self._profile = profile
        self._mode = mode
        self._effects = effects
        self._relay = Relay(client, upstream)
        self._lookups = UpstreamLookups(upstream)
        self._translator = Translator(profile, mode, self._lookups)
        self._status = b"I"
        self._skipping = False
        self._statements: dict[str, _Prepared] = {}
        self._portals: dict[str, _Prepared] = {}
        self._done: list[Effect] = []
        self._idle_limit: float | None = None

    async def run(self) -> None:
        """Raises `Disconnected` at the end."""
        try:
            await self._serve()
        finally:
            self._effects.end()

    async def _serve(self) -> None:
        await self._client.send(Message(b"Z", b"I"))
        await self._read_idle_limit()
        while True:
            message = await self._next()
            if message.kind == b"X":
                return
            if message.kind == b"S":
                await self._sync(message)
            elif self._skipping:
                continue
            elif message.kind == b"Q":
                await self._simple(binding.name(message.body))
            elif message.kind == b"F":
                await self._upstream.send(message)
                await self._ready(await self._relay.until(b"Z"))
            elif message.kind in _ANSWERS:
                await self._extended(message)

    # Waiting

    async def _next(self) -> Message:
        """The client's next message; passes on what the upstream says of itself meanwhile."""
        while True:
            client, upstream = self._client.coming(), self._upstream.coming()
            limit = None if self._lookups.in_pipeline else self._idle_limit
            done, _ = await asyncio.wait({client, upstream}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if client in done:
                return await self._client.read()
            if upstream in done:
                seen = as_client_sees(await self._upstream.read())
                if seen is not None:
                    await self._client.send(seen)
            elif not await self._read_idle_limit():
                continue
            else:
                await self._cut()

    async def _cut(self) -> None:
        message = "terminating connection due to administrator command"
        await self._client.send(
            protocol.notice("WARNING", "01000", "Session unused timeout."), protocol.error("FATAL", "57P01", message)
        )
        raise Disconnected("The session was idle for session_timeout.")

    async def _read_idle_limit(self) -> bool:
        """Asks for session_timeout anew; whether it is no longer than it was thought to be."""
        before = self._idle_limit
        value = await self._lookups.session_timeout()
        if value is not None:
            self._idle_limit = settings.seconds(value)
        return self._idle_limit is not None and (before is None or self._idle_limit <= before)

    async def _ready(self, message: Message) -> None:
        """Tells the client that the upstream is ready, after what the finished statements ask of the double."""
        self._status = message.body
        self._lookups.failed = self._status == b"E"
        self._lookups.in_pipeline = False
        done, self._done = self._done, []
        if not self._lookups.failed:
            for effect in done:
                await self._apply(effect)
        self._effects.end()
        await self._client.send(message)

    async def _apply(self, effect: Effect) -> None:
        if isinstance(effect, SettingChanged):
            await self._read_idle_limit()
            return
        try:
            await self._effects.apply(effect, self._upstream)
        except UpstreamRefused as error:
            _log.error("%s could not be completed: %s", effect, error)
            await self._client.send(protocol.error("ERROR", "XX000", f"The double could not complete this: {error}"))

    # Simple query

    async def _simple(self, sql: str) -> None:
        pieces = analysed(sql, self._profile)
        try:
            refusal = syntax_refusal(pieces)
            if refusal:
                raise refusal
            translated = await self._simple_translated(pieces)
        except (Refusal, UpstreamRefused) as error:
            await self._upstream.send(protocol.query(_REFUSED))
            await self._relay.until_error(_error(error))
            await self._ready(await self._relay.until(b"Z"))
            return
        self._effects.begin(effect for one in translated for effect in one.effects)
        await self._upstream.send(protocol.query("".join(one.sql for one in translated)))
        failed = await self._relay.until(b"Z", b"E")
        if failed.kind == b"Z":
            self._done += [effect for one in translated for effect in one.effects]
        await self._ready(failed if failed.kind == b"Z" else await self._relay.until(b"Z"))

    async def _simple_translated(self, pieces: Sequence[Statement]) -> list[Translated]:
        """What is sent for the query string; a refused statement among others fails when its turn comes."""
        several = sum(bool(piece.words) for piece in pieces) > 1
        translated = []
        for piece in pieces:
            try:
                block = several or self._status != b"I"
                translated.append(await self._translator.translated(piece, in_transaction=block))
            except Refusal as error:
                if not several and not self._lookups.failed:
                    raise
                translated.append(Translated(protocol.raising(error.sqlstate, error.message) + ";"))
        return translated

    # Extended query

    async def _extended(self, message: Message) -> None:
        effects: tuple[Effect, ...] = ()
        prepared: _Prepared | None = None
        name = ""
        if message.kind == b"P":
            name, sql, types = binding.parsed(message)
            try:
                translated = await self._parse_translated(sql)
            except Refusal as error:
                await self._refuse_parse(error)
                return
            except UpstreamRefused as error:  # it skips to the Sync already
                self._lookups.in_pipeline = self._skipping = True
                await self._client.send(_error(error))
                return
            message = protocol.parse(name, translated.sql, types)
            prepared = _Prepared(translated.effects)
        elif message.kind == b"B":
            portal, statement = binding.names(message)
            bound = self._statements.get(statement, _Prepared())
            self._portals[portal] = bound
            message = binding.with_nulls(message, bound.null_where_empty) if bound.null_where_empty else message
        elif message.kind == b"E":
            effects = self._portals.get(binding.name(message.body), _Prepared()).effects
            self._effects.begin(effects)
        self._lookups.in_pipeline = True
        await self._upstream.send(message, _FLUSH)
        answer = await self._relay.until(b"E", *_ANSWERS[message.kind])
        if answer.kind == b"E":
            self._skipping = True
            return
        self._done += effects
        if prepared is not None:
            self._statements[name] = _Prepared(prepared.effects, await self._empties(name))

    async def _parse_translated(self, sql: str) -> Translated:
        pieces = analysed(sql, self._profile)
        refusal = syntax_refusal(pieces)
        if refusal:
            raise refusal
        block = self._status != b"I"
        parts = [await self._translator.translated(piece, in_transaction=block) for piece in pieces]
        return Translated("".join(one.sql for one in parts), tuple(effect for one in parts for effect in one.effects))

    async def _refuse_parse(self, error: Refusal) -> None:
        self._lookups.in_pipeline = self._skipping = True
        if self._lookups.failed and not error.is_syntax:
            # Let the upstream say that the transaction has failed.
            await self._upstream.send(protocol.parse("", "SELECT 1"), _FLUSH)
            await self._relay.until(b"E")
            return
        await self._upstream.send(protocol.parse("", _REFUSED), _FLUSH)
        await self._relay.until_error(_error(error))

    async def _empties(self, name: str) -> frozenset[int]:
        """In mode A: the statement's parameters that are NULL where they are empty."""
        if self._mode != "A":
            return frozenset()
        await self._upstream.send(Message(b"D", b"S" + protocol.text(name)), _FLUSH)
        description = await self._upstream.read()
        while (await self._upstream.read()).kind not in (b"T", b"n"):
            pass
        return binding.null_where_empty(description)

    async def _sync(self, message: Message) -> None:
        self._skipping = False
        await self._upstream.send(message)
        await self._ready(await self._relay.until(b"Z"))


def _error(error: Refusal | UpstreamRefused) -> Message:
    if isinstance(error, UpstreamRefused):
        return protocol.as_opengauss(b"E", error.fields)
    return protocol.error("ERROR", error.sqlstate, error.message, error.position)
