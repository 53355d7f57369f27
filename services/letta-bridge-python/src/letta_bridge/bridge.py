"""The composition root: builds everything, starts it, drains it, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from fastapi import FastAPI

from letta_bridge import __version__
from letta_bridge.agents.model_handles import tell_unknown_handles
from letta_bridge.agents.opt_out_tags import OptOutTags, TaggedOptOuts
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.agents.session_stores import choice_replicas, session_store
from letta_bridge.agents.tenant_claim import TenantClaim
from letta_bridge.agents.user_settings import SessionChoices, UserSettings
from letta_bridge.consent import Consent
from letta_bridge.errors import BreakerOpen
from letta_bridge.health_checks import (
    HealthChecks,
    answers_check,
    consent_check,
    journal_check,
    letta_check,
    redis_check,
    session_file_check,
    sessions_check,
    tenant_check,
    vectors_check,
)
from letta_bridge.http.access import require_token
from letta_bridge.http.api import routers
from letta_bridge.http.app import create_app
from letta_bridge.journal import JOURNAL_SOURCE, Journal
from letta_bridge.letta import Breaker, BreakerPolicy, LettaServers
from letta_bridge.letta.factory import letta_client
from letta_bridge.letta.port import LettaAgents, LettaPort
from letta_bridge.limits import Limiter, RedisUsageStore
from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.creation_leases import RedisCreationLeases
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.request_queue.other_queues import tell_left_behind
from letta_bridge.request_queue.served_letta import ServedLetta
from letta_bridge.request_queue.user_records import UserRecords
from letta_bridge.settings import BridgeSettings
from letta_bridge.telemetry.figures import Figures
from letta_bridge.telemetry.metrics import Scrape, Sources, loop_lag_watched
from letta_bridge.telemetry.wiring import Telemetry
from letta_bridge.turn.delivery import DeliveryContext
from letta_bridge.turn.fallback import MemoryPython
from letta_bridge.turn.intake import Intake
from letta_bridge.turn.message_processor import MessageProcessor
from letta_bridge.turn.streams.control import Control
from letta_bridge.turn.streams.heard_late import HeardLate
from letta_bridge.turn.streams.writer import StreamWriter
from letta_bridge.user_data.erasure_follower import ErasureFollower
from letta_bridge.vectors.build import new_vectors
from shared_utils.config.reload import reread
from shared_utils.observability import health, logs
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.session_file.probe import SessionFileProbe
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, connect
from shared_utils.remembered import Remembered
from shared_utils.task_end import end_and_log

_log = logs.get(__name__)
_FILE_SECONDS: Final = 10.0
"""How old the look at the session file may be, which writes a page of it."""
_COLLECTED_EVERY: Final = 50_000
"""Objects made, less those gone, between two looks of the garbage collector at the young ones."""
_MOST_TURNS: Final = 100_000
"""Maximum connections to Letta. The intake limits them further, by a setting that may change at runtime."""


class Bridge:
    """One running bridge.

    Args:
        settings: the initial ones.
        read_again: reads the settings again, for SIGHUP; raises SettingsError.
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
        self._choices = choice_replicas(settings, redis, self._database, store)
        self._consent = Consent(self._choices)
        self._opt_outs = TaggedOptOuts(
            self._consent, settings.tenant.name, lambda user: UserRecords(redis, queue, user).drop_missed()
        )
        self.sessions = SessionManager(
            store,
            settings.agents,
            settings.sessions,
            tenant=settings.tenant.name,
            owner=self.name,
            claim=queue.lease_seconds,  # a killed bridge's turn and its claim on the user's agent end together
            creation_leases=RedisCreationLeases(redis, self.queue.keys),
            consent=self._consent,
            opt_outs=self._opt_outs,
            claim_on_tenant=self._tenant,
        )
        self._fallback = MemoryPython(
            connect(settings.redis, name=f"{self.name}-fallback"),
            connect(settings.redis, name=f"{self.name}-sub"),
            self.queue.keys,
            settings.fallback,
            queue,
            tenant=settings.tenant.name,
        )
        context = DeliveryContext(self.servers, self.sessions, settings.letta, settings.fallback, telemetry.recorder)
        fallback = telemetry.fallback(self._fallback)
        limiter = Limiter(settings.limits, RedisUsageStore(redis, self.queue.keys))
        self.queue.max_lane = settings.limits.max_pending_per_user
        self.queue.journal_bound = settings.journal.backlog_turns
        self.queue.journal_bytes = settings.journal.backlog_bytes
        self._journal = self._new_journal(redis)
        self._vectors = (
            new_vectors(lambda: self.settings, self.servers, telemetry.metrics, self.name)
            if settings.vectors.enabled
            else None
        )
        self._streams = StreamWriter(self.queue, settings.streaming, telemetry.recorder)
        self._processor = MessageProcessor(
            settings, context, fallback, self.queue, limiter, consent=self._consent, streams=self._streams
        )
        process = telemetry.process(self._processor.process)
        self.intake = Intake(self.queue, process, queue, self._accepting, telemetry.recorder)
        self._streams.on_interrupt = self.intake.interrupt
        self._control = Control(
            connect(settings.redis, name=f"{self.name}-control", timeout=10),
            connect(settings.redis, name=f"{self.name}-interrupts"),
            key=queue.control_list,
            channel=self.queue.keys.interrupts,
            interrupt=self.queue.interrupt,
            break_off=self.intake.interrupt,
            over=HeardLate(self.queue),
            recorder=telemetry.recorder,
        )
        self.queue.barge_in = settings.streaming.barge_in
        self.queue.on_barge_in = self._control.barge_in
        self._erasures = ErasureFollower(
            RedisErasureLedger(redis, self.queue.keys),
            self.name,
            file=FileErasures(settings.session_file),
            uploads=settings.upload_dir,
            forget=self.sessions.forget_users,
            keep_choices=self._choices.keep_others,
        )
        figures = Figures(self.name, self.queue, self.sessions, self.servers, lambda: self.intake.in_flight)
        self.health = self._new_health(figures)
        self._scrape = Scrape(
            telemetry.metrics,
            Sources(
                figures.status,
                queue.requests,
                figures.sessions,
                self.servers.states,
                in_flight=lambda: self.intake.in_flight,
                checks=self.health.all_checks,
                redis_error=lambda: self.intake.redis_error,
            ),
        )

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
                self._streams.running(),
                self._control.running(),
            ):
                _spare_the_collector()
                _log.info("started", bridge=self.name, version=__version__, port=port)
                looking = asyncio.create_task(
                    tell_left_behind(self._redis, self.settings.queue.requests), name="other-queues"
                )
                asking = asyncio.create_task(tell_unknown_handles(self.settings), name="model-handles")
                try:
                    await self.intake.run()
                finally:
                    await end_and_log(looking)
                    await end_and_log(asking)
        finally:
            await self._close()
            await asyncio.to_thread(self.telemetry.close)
            _log.info("stopped", bridge=self.name)

    def stop(self) -> None:
        """Shut down gracefully: take no more turns, finish started ones, and let :meth:`run` return."""
        self.intake.stop()

    def reload(self) -> None:
        """Read the settings again, and apply those that can change at runtime."""
        if self._read_again is None or (settings := reread(self.settings, self._read_again, _log)) is None:
            return
        self.settings = settings
        logs.adjust(settings.logs)
        self.queue.max_lane = settings.limits.max_pending_per_user
        self.queue.barge_in = settings.streaming.barge_in
        self._fallback.reload(settings.fallback)
        self._processor.reload(settings)
        if self._journal is not None:
            self._journal.reload(settings.journal)
        self.intake.reload(settings.queue)

    def _app(self) -> FastAPI:
        settings = self.settings
        grace = timedelta(hours=settings.sessions.deleted_retention_hours)
        earlier = SessionChoices(self.sessions.store, settings.agents.personas, self.sessions.forget)
        agents = OptOutTags(self._any_letta, settings.tenant.name, self._may_use_agents)
        api = routers(self.sessions, UserSettings(self._consent, earlier, agents), grace=grace)
        return create_app(self.health, self._scrape, settings.bridge, api)

    def _any_letta(self) -> LettaPort:
        """A server for work outside of turns. Raises BreakerOpen."""
        if not self.settings.letta.enabled:
            raise BreakerOpen("Letta is not used: letta.enabled is false")
        return self.servers.pick("").port

    async def _may_use_agents(self, letta: LettaAgents) -> None:
        """Raises TenantTaken while another queue's users have the tenant's agents."""
        if self._tenant is not None:
            await self._tenant.require(letta)

    def _accepting(self) -> bool:
        if self._tenant is not None and not self._tenant.may_take:
            return False
        letta = self.settings.letta
        return letta.fallback_to_memory or not letta.enabled or self.servers.available()

    def _new_health(self, figures: Figures) -> HealthChecks:
        checks = [
            # Of a Cluster, this asks the one node that serves the queue.
            redis_check(lambda: self._redis.hlen(self.queue.keys.lanes), self.intake),
            letta_check(self.servers, self.settings.letta.api_urls),
            sessions_check(self.sessions),
            session_file_check(Remembered(self._session_file.check, _FILE_SECONDS)),
            consent_check(self._choices),
        ]
        if self._tenant is not None:
            checks.append(tenant_check(self._tenant, self.settings.tenant.name))
        if self._journal is not None:
            checks.append(journal_check(self._journal))
        if self._vectors is not None:
            checks.append(vectors_check(self._vectors.worker))
        checks.append(answers_check(figures.status_in_time))
        return HealthChecks(self.intake, checks, figures.summary)

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
        """None without a database. It also runs while it is switched off, because turns may still wait."""
        if self._database is None:
            return None
        return Journal(
            RedisJournalBacklog(redis, self.queue.keys, self.name),
            ConversationService(self._database, source=JOURNAL_SOURCE),
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
    """Exclude present objects from garbage collection, which took a sixth of a loaded bridge's time.

    Later objects are collected more rarely, because a turn creates hundreds of objects and no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_EVERY)
