"""The composition root: builds everything, starts it, drains it, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from fastapi import FastAPI

from letta_bridge import __version__
from letta_bridge.agents.opt_out_tags import OptOutTags, TaggedOptOuts
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.agents.session_stores import choice_replicas, session_store
from letta_bridge.agents.tenant_claim import TenantClaim
from letta_bridge.agents.user_settings import SessionChoices, UserSettings
from letta_bridge.consent import Consent
from letta_bridge.errors import BreakerOpen
from letta_bridge.guards import Guards, RedisMeter
from letta_bridge.http.access import require_token
from letta_bridge.http.api import routers
from letta_bridge.http.app import create_app
from letta_bridge.journal import SOURCE, Journal
from letta_bridge.letta import Breaker, BreakerPolicy, LettaServers
from letta_bridge.letta.connection import letta_client
from letta_bridge.letta.port import LettaPort
from letta_bridge.request_queue import QueueStatus, RedisQueue
from letta_bridge.request_queue.creation_leases import RedisCreationLeases
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.request_queue.other_queues import tell_left_behind
from letta_bridge.request_queue.served_letta import ServedLetta
from letta_bridge.request_queue.traces import UserTraces
from letta_bridge.settings import BridgeSettings
from letta_bridge.telemetry.metrics import Scrape, Sources, loop_lag_watched
from letta_bridge.telemetry.wiring import Telemetry
from letta_bridge.turn.delivery import Desk
from letta_bridge.turn.fallback import MemoryPython
from letta_bridge.turn.intake import Intake
from letta_bridge.turn.message_processor import MessageProcessor
from letta_bridge.user_data.erasure_follower import ErasureFollower
from letta_bridge.vectors.build import new_vectors
from shared_utils.config.reload import reread
from shared_utils.observability import health, logs
from shared_utils.observability.health import Check
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.session_file.probe import SessionFileProbe
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, connect
from shared_utils.redis.trouble import explained
from shared_utils.remembered import Remembered
from shared_utils.task_end import end

_log = logs.get(__name__)
_CHECK_SECONDS: Final = 2.0
"""What a health check may take; a dependency that needs longer is as good as away."""
_SHARED_SECONDS: Final = 0.1
"""How old the queue's figures may be: the parts of a health page or a scrape begin at once and share one look."""
_COUNTED_SECONDS: Final = 30.0
"""How old the number of sessions may be: of a million the database counts each."""
_FILE_SECONDS: Final = 10.0
"""How old the look at the session file may be, which writes a page of it."""
_COLLECTED_EVERY: Final = 50_000
"""Objects made, less those gone, between two looks of the garbage collector at the young ones."""
_MOST_TURNS: Final = 100_000
"""Connections to Letta at most. The intake bounds them, by a number that may change while running."""


class Bridge:
    """One running bridge.

    Args:
        settings: what it begins with.
        read_again: reads the settings anew, for SIGHUP; raises SettingsError.
    """

    def __init__(self, settings: BridgeSettings, read_again: Callable[[], BridgeSettings] | None = None) -> None:
        self.settings = settings
        self._read_again = read_again
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.telemetry = telemetry = Telemetry(settings)
        queue = settings.queue
        redis = connect(settings.redis, name=self.name)
        self._redis = redis
        self.queue = RedisQueue(redis, connect(settings.redis, name=f"{self.name}-pop", timeout=10), queue, self.name)
        self._look = Remembered(self._ask_queue, _SHARED_SECONDS)
        self.servers = LettaServers(
            {
                url: telemetry.letta(url, letta_client(settings.letta, url, max_concurrency=_MOST_TURNS))
                for url in settings.letta.api_urls
            },
            breaker=lambda: Breaker(
                BreakerPolicy(failures=settings.letta.breaker.failures, pause=settings.letta.breaker.open_seconds)
            ),
        )
        self._database = None if settings.database.db_url is None else Database(settings.database)
        self._tenant = self._new_claim(redis)
        store = session_store(settings, self._database)
        self._session_file = SessionFileProbe(settings.session_file)
        self._file_trouble = Remembered(self._session_file.trouble, _FILE_SECONDS)
        self._choices = choice_replicas(settings, redis, self._database, store)
        self._consent = Consent(self._choices)
        self._opt_outs = TaggedOptOuts(
            self._consent, settings.tenant.name, lambda user: UserTraces(redis, queue, user).drop_missed()
        )
        self.sessions = SessionManager(
            store,
            settings.agents,
            settings.sessions,
            tenant=settings.tenant.name,
            owner=self.name,
            claim=queue.lease,  # a killed bridge's turn and its claim on the user's agent end together
            creation_leases=RedisCreationLeases(redis, self.queue.keys),
            consent=self._consent,
            opt_outs=self._opt_outs,
            claim_on_tenant=self._tenant,
        )
        self._session_counts = Remembered(self.sessions.count, _COUNTED_SECONDS)
        self._fallback = MemoryPython(
            connect(settings.redis, name=f"{self.name}-fallback"),
            connect(settings.redis, name=f"{self.name}-sub"),
            self.queue.keys,
            settings.fallback,
            queue,
            tenant=settings.tenant.name,
        )
        desk = Desk(self.servers, self.sessions, settings.letta, settings.fallback, telemetry.recorder)
        fallback = telemetry.fallback(self._fallback)
        guards = Guards(settings.guards, RedisMeter(redis, self.queue.keys))
        self.queue.max_lane = settings.guards.max_lane
        self.queue.journal_bound = settings.journal.backlog
        self.queue.journal_bytes = settings.journal.backlog_bytes
        self._journal = self._new_journal(redis)
        self._vectors = (
            new_vectors(lambda: self.settings, self.servers, telemetry.metrics, self.name)
            if settings.vectors.enabled
            else None
        )
        self._processor = MessageProcessor(settings, desk, fallback, self.queue, guards, consent=self._consent)
        process = telemetry.process(self._processor.process)
        self.intake = Intake(self.queue, process, queue, self._accepting, telemetry.recorder)
        self._erasures = ErasureFollower(
            RedisErasureLedger(redis, self.queue.keys),
            self.name,
            file=FileErasures(settings.session_file),
            uploads=settings.upload_dir,
            forget=self.sessions.forget_users,
            keep_choices=self._choices.keep_others,
        )
        self._scrape = Scrape(
            telemetry.metrics,
            Sources(
                self._look,
                queue.requests,
                self._session_counts,
                self.servers.states,
                in_flight=lambda: self.intake.in_flight,
                checks=self._all_checks,
                redis_error=lambda: self.intake.redis_error,
            ),
        )
        self._draining = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            OSError: the HTTP port is taken.
            SettingsError: others could reach the API, and there is no token for it.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        http = self.settings.bridge
        try:
            require_token(http)
            async with (
                health.serve(self._app(), host=http.host, port=http.port) as port,
                loop_lag_watched(self.telemetry.metrics.loop_lag),
                self._erasures.running(),
                self.sessions.running(),
                self._choices.running(),
                self._tenant.running(self._any_letta) if self._tenant else contextlib.nullcontext(),
                self._opt_outs.running(self._any_letta, self._may_use_agents),
                self._journal.running() if self._journal else contextlib.nullcontext(),
                self._vectors.worker.running() if self._vectors else contextlib.nullcontext(),
            ):
                _spare_the_collector()
                _log.info("bridge_started", bridge=self.name, version=__version__, port=port)
                looking = asyncio.create_task(tell_left_behind(self._redis, self.settings.queue.requests))
                try:
                    await self.intake.run()
                finally:
                    await end(looking)
                    await asyncio.gather(looking, return_exceptions=True)
        finally:
            await self._close()
            await asyncio.to_thread(self.telemetry.close)
            _log.info("bridge_stopped", bridge=self.name)

    def stop(self) -> None:
        """Take nothing more, end what was begun, and let :meth:`run` return."""
        self._draining = True
        self.intake.stop()

    def reload(self) -> None:
        """Read the settings again, and take over what can change while running."""
        if self._read_again is None or (settings := reread(self.settings, self._read_again, _log)) is None:
            return
        self.settings = settings
        logs.adjust(settings.logs)
        self.queue.max_lane = settings.guards.max_lane
        self._fallback.reload(settings.fallback)
        self._processor.reload(settings)
        if self._journal is not None:
            self._journal.reload(settings.journal)
        self.intake.reload(settings.queue)

    def own_checks(self) -> list[Check]:
        """See :class:`shared_utils.observability.health.HealthSource`."""
        return [
            Check("intake", ok=not self._draining, detail="draining" if self._draining else "taking", required=True)
        ]

    async def checks(self) -> list[Check]:
        """See :class:`shared_utils.observability.health.HealthSource`.

        Letta and the sessions only degrade: there is a fallback.
        """
        # At once: several that hang together would outlast a probe's or a scrape's patience.
        redis, letta, sessions, file, answers = await asyncio.gather(
            self._check_redis(),
            self._check_letta(),
            self._check_sessions(),
            self._check_session_file(),
            self._check_answers(),
        )
        return [
            redis,
            *letta,
            sessions,
            file,
            self._check_consent(),
            *self._check_tenant(),
            *self._check_journal(),
            *self._check_vectors(),
            *answers,
        ]

    async def _all_checks(self) -> list[Check]:
        return [*await self.checks(), *self.own_checks()]

    async def summary(self) -> Mapping[str, Any]:
        """See :class:`shared_utils.observability.health.HealthSource`."""
        summary: dict[str, Any] = {
            "service": "letta-bridge",
            "version": __version__,
            "bridge": self.name,
            "in_flight_here": self.intake.in_flight,
            "breakers": {name: state.value for name, state in self.servers.states().items()},
            "users_paused": self.servers.users.paused,
        }
        counts, status = await asyncio.gather(self._session_counts(), self._status())
        summary["sessions"] = dict(counts)
        if status is None:
            return summary
        return summary | {
            "queue_depth": status.depth,
            "waiting_in_lanes": status.waiting,
            "in_flight": status.in_flight,
            "oldest_task_age_seconds": round(status.oldest_age, 3),
            "dead_letters": status.dead,
            "bridges": status.bridges,
            "paused": status.paused,
            "recent_turns": asdict(status.recent) | {"failed_share": round(status.recent.failed_share, 3)},
            "counters": status.counters,
        }

    def _app(self) -> FastAPI:
        settings = self.settings
        grace = timedelta(hours=settings.sessions.grace_hours)
        earlier = SessionChoices(self.sessions.store, settings.agents.personas, self.sessions.forget)
        agents = OptOutTags(self._any_letta, settings.tenant.name, self._may_use_agents)
        api = routers(self.sessions, UserSettings(self._consent, earlier, agents), grace=grace)
        return create_app(self, self._scrape, settings.bridge, api)

    def _any_letta(self) -> LettaPort:
        """A server for work outside of turns. Raises BreakerOpen."""
        if not self.settings.letta.enabled:
            raise BreakerOpen("Letta is not used: letta.enabled is false")
        return self.servers.pick("").port

    async def _may_use_agents(self, letta: LettaPort) -> None:
        """Raises TenantTaken while another queue's users have the tenant's agents."""
        if self._tenant is not None:
            await self._tenant.require(letta)

    def _accepting(self) -> bool:
        if self._tenant is not None and not self._tenant.may_take:
            return False
        letta = self.settings.letta
        return letta.fallback_to_memory or not letta.enabled or self.servers.available()

    async def _check_redis(self) -> Check:
        trouble = self.intake.redis_error
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                # Of a Cluster, this asks the one node that serves the queue.
                await self._redis.hlen(self.queue.keys.lanes)
        except CONNECTION_ERRORS as error:
            trouble = trouble or explained(error)
        return Check("redis", ok=trouble is None, detail=trouble or "does what is asked", required=True)

    async def _check_letta(self) -> list[Check]:
        async def check(name: str, url: str) -> Check:
            server = next(server for server in self.servers if server.name == url)
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    version = await server.port.health()
            except Exception as error:  # noqa: BLE001  # whatever it is, the health page must tell it
                return Check(name, ok=False, detail=f"{url}: {_text(error)}")
            return Check(name, ok=True, detail=f"{url}: version {version}, breaker {server.breaker.state.value}")

        urls = self.settings.letta.api_urls
        names = ["letta"] if len(urls) == 1 else [f"letta-{number}" for number in range(1, len(urls) + 1)]
        return list(await asyncio.gather(*map(check, names, urls)))

    async def _check_sessions(self) -> Check:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self.sessions.look()
        except TimeoutError:
            return Check("sessions", ok=False, detail="the store does not answer in time")
        error = self.sessions.store_error
        return Check("sessions", ok=error is None, detail=error or "the store answers")

    async def _check_session_file(self) -> Check:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                trouble = await self._file_trouble()
        except TimeoutError:
            trouble = "the session file cannot be written in time"
        return Check("session_file", ok=trouble is None, detail=trouble or "can be written")

    def _check_consent(self) -> Check:
        trouble = self._choices.trouble
        return Check("consent", ok=trouble is None, detail=trouble or "the replicas of users' choices are equal")

    def _check_tenant(self) -> list[Check]:
        if self._tenant is None:
            return []
        trouble = self._tenant.trouble
        detail = trouble or f"claim on the tenant '{self.settings.tenant.name}': {self._tenant.state.value}"
        return [Check("tenant", ok=trouble is None, detail=detail, required=True)]

    def _check_journal(self) -> list[Check]:
        if self._journal is None:
            return []
        trouble = self._journal.trouble
        return [Check("journal", ok=trouble is None, detail=trouble or "writes, or leaves it to another bridge")]

    def _check_vectors(self) -> list[Check]:
        if self._vectors is None:
            return []
        trouble = self._vectors.worker.trouble
        return [Check("vectors", ok=trouble is None, detail=trouble or "kept in step, by this bridge or another")]

    async def _check_answers(self) -> list[Check]:
        """Who answered lately. While Redis is away nobody knows, which its own check says."""
        status = await self._status()
        recent = None if status is None else status.recent
        return [] if recent is None else [Check("answers", ok=not recent.in_trouble, detail=recent.sentence)]

    async def _ask_queue(self) -> QueueStatus:
        return await self.queue.status()

    async def _status(self) -> QueueStatus | None:
        """The queue's figures; None while Redis does not tell them in time."""
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                return await self._look()
        except CONNECTION_ERRORS:
            return None

    def _new_claim(self, redis: RedisClient) -> TenantClaim | None:
        """None if the tenant is sharded: then several queues use its agents."""
        settings = self.settings
        if settings.tenant.shards:
            return None
        keys = self.queue.keys
        return TenantClaim(
            settings.tenant.name,
            settings.queue.requests,
            QueueIdentity(redis, keys),
            ServedLetta(redis, keys, self.name),
        )

    def _new_journal(self, redis: RedisClient) -> Journal | None:
        """None where there is no database. It runs while it is switched off, too: something may still wait for it."""
        if self._database is None:
            return None
        return Journal(
            RedisJournalBacklog(redis, self.queue.keys, self.name),
            ConversationService(self._database, source=SOURCE),
            self.settings.journal,
            self.telemetry.metrics.journalled.inc,
        )

    async def _close(self) -> None:
        for closing in (
            self._fallback.close(),
            self.servers.close(),
            self._choices.close(),
            self.sessions.close(),
            self.queue.close(),
        ):
            with contextlib.suppress(*CONNECTION_ERRORS):
                await closing
        self._session_file.close()
        if self._vectors is not None:
            await self._vectors.close()
        if self._database is not None:
            await self._database.close()


def _spare_the_collector() -> None:
    """What is there now stays; looking through it again and again took a sixth of a loaded bridge's time.

    What comes later is looked through more rarely: a turn makes hundreds of objects and no cycles of its own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_EVERY)


def _text(error: Exception) -> str:
    return str(error) or "no answer in time"
