"""Everything the bridge can be told. config.json holds the same names; docs/configuration.md is made from this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from letta_bridge.config_layout import LAYOUT
from shared_utils.config.setting_types import HttpAddress, HttpKey, HttpToken, http_address
from shared_utils.config.settings import (
    Loaded,
    LogSettings,
    RedisSettings,
    Section,
    TenantSettings,
    TextList,
    config_file,
    load,
    setting,
)
from shared_utils.contracts import canned_sentences
from shared_utils.contracts.limits import MAX_CHANNEL_LENGTH, MAX_QUEUE_NAME_LENGTH, MAX_REPLY_TTL, TaskLimits
from shared_utils.errors import SettingsError
from shared_utils.llm.embeddings import EmbeddingSettings
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.vectors.settings import VectorSettings

Route = Literal["letta", "memory-python"]

MEMORY_TOOLS: Final = ("memory_insert", "memory_replace", "conversation_search", "archival_memory_insert",
                       "archival_memory_search")  # fmt: skip
"""Tools an agent may have: they read and write its own memory, and reach neither code nor network."""


class QueueSettings(TaskLimits):
    """The request list and what goes back."""

    requests: str = setting(
        "letta_requests",
        "LETTA_REQUESTS",
        doc="request list, from which bridges take tasks",
        pattern=r"^[^{}\s]+$",
        max_length=MAX_QUEUE_NAME_LENGTH,
    )
    responses: str = setting(
        "letta_responses",
        "LETTA_RESPONSES",
        doc="channel the replies are published on",
        min_length=1,
        max_length=MAX_CHANNEL_LENGTH,
    )
    task_response: str = setting(
        "task_response:", doc="+ task id: channel of one task's reply", max_length=MAX_CHANNEL_LENGTH
    )
    task_stream: str = setting(
        "task_stream:", doc="+ task id: channel of the events of a streamed reply", max_length=MAX_CHANNEL_LENGTH
    )
    stream_ttl_seconds: float = setting(
        900.0, doc="seconds the events of a task are kept after the last one", ge=1, le=MAX_REPLY_TTL
    )
    stream_maxlen: int = setting(10_000, doc="events of one task that are kept, about", ge=100)
    control: str | None = setting(
        None,
        "LETTA_CONTROL",
        doc="list from which bridges take interrupts, another one for each request list; empty: letta_control beside "
        "the request list letta_requests, {NAME}:control beside one called NAME",
        pattern=r"^[^{}\s]+$",
        max_length=MAX_QUEUE_NAME_LENGTH,
    )
    max_concurrent_requests: int = setting(
        64, "MAX_CONCURRENT_REQUESTS", doc="turns that this bridge holds at once", reload=True, ge=1, le=100_000
    )
    lease_seconds: float = setting(
        30.0, "LEASE_SECONDS", doc="seconds after which a dead bridge's turns are taken over", ge=1
    )
    reply_ttl_seconds: float = setting(
        3600.0, "REPLY_TTL_SECONDS", doc="seconds a reply is kept by task id", ge=1, le=MAX_REPLY_TTL
    )
    reply_stream_maxlen: int = setting(10_000, doc="replies in the stream for late subscribers", ge=1)
    max_missed_per_user: int = setting(200, doc="missed turns kept per user and persona", ge=1)
    missed_bytes: int = setting(
        4_194_304, doc="bytes of these turns per user and persona; the oldest beyond are dropped", ge=1024
    )
    dead_bytes: int = setting(
        134_217_728, doc="bytes of memory for dead letters; the oldest beyond are dropped", ge=1_048_576
    )
    max_deliveries: int = setting(5, doc="hand-outs after which a task is a dead letter", reload=True, ge=1)
    shutdown_grace_seconds: float = setting(
        20.0, "SHUTDOWN_GRACE_SECONDS", doc="seconds running turns have to end on SIGTERM", reload=True, ge=0
    )

    @model_validator(mode="after")
    def _interrupts_have_a_list_of_their_own(self) -> Self:
        if self.control == self.requests:
            raise ValueError(
                f"control {self.control} is the request list, whose tasks would be dropped as unreadable interrupts; "
                "name another list"
            )
        return self

    @property
    def control_list(self) -> str:
        """The list from which bridges take interrupts.

        Its default carries the request list's name, because two queues on one Redis would take each other's interrupts
        from a common list; the default request list has a plain one.
        """
        if self.control is not None:
            return self.control
        return "letta_control" if self.requests == "letta_requests" else f"{{{self.requests}}}:control"


class BreakerSettings(Section):
    """When a Letta server is left alone."""

    failures: int = setting(5, doc="consecutive failures that open it", ge=1)
    open_seconds: float = setting(5.0, doc="seconds it stays open at first; doubled each time up to a minute", gt=0)


class LettaSettings(Section):
    """Letta, and what to do without it."""

    enabled: bool = setting(True, "LETTA_ENABLED", doc="false: memory-python answers everything", reload=True)
    fallback_to_memory: bool = setting(True, "LETTA_FALLBACK", doc="memory-python answers if Letta cannot", reload=True)
    memory_type_routing: dict[str, Route] = setting(
        {"permanent": "letta", "temporary": "memory-python"}, doc="who answers which meta.memory_type", reload=True
    )
    api_urls: TextList = setting(
        ("http://localhost:8283",),
        "LETTA_API_URL",
        doc="Letta servers over one database (comma-separated)",
        min_length=1,
    )
    api_key: HttpKey | None = setting(None, "LETTA_API_KEY", doc="Letta's server password")
    timeout_seconds: float = setting(
        60.0, "LETTA_TIMEOUT_SECONDS", doc="seconds one call to Letta may take", reload=True, gt=0
    )
    retry_attempts: int = setting(3, "LETTA_RETRY_ATTEMPTS", doc="retries after a failed attempt", reload=True, ge=0)
    reply_deadline_seconds: float = setting(
        90.0,
        "REPLY_DEADLINE_SECONDS",
        doc="seconds in which a turn gets its reply, retries and memory-python included: Letta has these less "
        "fallback.timeout_seconds (but two thirds at least), then memory-python the rest",
        reload=True,
        gt=0,
    )
    previous_turn_timeout_seconds: float = setting(
        30.0,
        doc="seconds a user's next turn waits for one still running in Letta, but no longer than half of "
        "Letta's part of reply_deadline_seconds; then memory-python answers it",
        reload=True,
        gt=0,
    )
    run_lifetime_seconds: float = setting(
        600.0,
        doc="seconds after which a run that is still active is taken for one that a killed server left behind, and "
        "cancelled; longer than any turn of the model takes",
        reload=True,
        gt=0,
    )
    breaker: BreakerSettings = BreakerSettings()

    @field_validator("api_urls")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(http_address, urls))


class PersonaSettings(Section):
    """The first memory of an agent, as templates in the user's language."""

    persona: dict[str, str] = setting(
        {
            "zh": "我是一个记得用户的聊天伙伴。我用用户的语言回答,并用这种语言记下用户告诉我的事。",
            "en": "I am a chat companion who remembers its user. I answer and take notes in the user's language.",
        },
        doc="language → first value of the block 'persona'",
    )
    human: dict[str, str] = setting(
        {"zh": "关于这位用户,我目前知道的:", "en": "What I know about this user so far:"},
        doc="language → first value of the block 'human'",
    )


class AgentSettings(Section):
    """What a new agent is made of."""

    model: str = setting("openai/gpt-4o-mini", "LETTA_MODEL", doc="Letta handle of the model")
    embedding: str | None = setting(
        "openai/text-embedding-3-small", "LETTA_EMBEDDING", doc="Letta handle of the embedding model"
    )
    agent_type: str = setting("letta_v1_agent", "LETTA_AGENT_TYPE", doc="Letta's agent type")
    language: str = setting(
        "zh", "LETTA_AGENT_LANGUAGE", doc="language of a new agent if neither meta.lang nor the text determines it"
    )
    context_window: int | None = setting(
        None,
        doc="tokens of the model's window, for models that Letta does not know (it assumes 30 000); empty leaves it to "
        "Letta",
        ge=4096,
    )
    max_tokens: int | None = setting(
        None, doc="tokens of one answer; empty leaves it to Letta, which allows 16 384", ge=16
    )
    temperature: float | None = setting(None, doc="of the model; empty leaves it to Letta, which sends 1.0", ge=0, le=2)
    block_limit: int = setting(5000, doc="characters of a memory block", ge=200)
    tools: TextList = setting(MEMORY_TOOLS[:3], doc=f"any of {', '.join(MEMORY_TOOLS)}")
    personas: dict[str, PersonaSettings] = setting(
        {"default": PersonaSettings()}, doc="name → its templates; meta.persona chooses, 'default' answers otherwise"
    )

    @model_validator(mode="after")
    def _answers_fit_the_window(self) -> Self:
        if self.context_window and self.max_tokens and self.max_tokens >= self.context_window:
            raise ValueError(
                f"an answer of max_tokens {self.max_tokens} does not fit context_window {self.context_window}, which "
                "holds the conversation as well; lower max_tokens"
            )
        return self

    @field_validator("tools")
    @classmethod
    def _only_memory_tools(cls, tools: tuple[str, ...]) -> tuple[str, ...]:
        others = [tool for tool in tools if tool not in MEMORY_TOOLS]
        if others:
            raise ValueError(f"{', '.join(others)}: an agent of the bridge may only have {', '.join(MEMORY_TOOLS)}")
        return tools

    @field_validator("personas")
    @classmethod
    def _with_default(cls, personas: dict[str, PersonaSettings]) -> dict[str, PersonaSettings]:
        if "default" not in personas:
            raise ValueError("one named 'default' is needed")
        return personas


class FallbackSettings(Section):
    """How to reach memory-python."""

    queue: str = setting(
        "user_input_queue",
        doc="list memory-python reads",
        pattern="^[^{}]+$",
        min_length=1,
        max_length=MAX_QUEUE_NAME_LENGTH,
    )
    timeout_seconds: float = setting(
        20.0,
        "FALLBACK_TIMEOUT_SECONDS",
        doc="seconds memory-python has for an answer, but a third of letta.reply_deadline_seconds at most; more than "
        "its own time limit",
        reload=True,
        gt=0,
    )
    health_url: HttpAddress | None = setting(
        "http://localhost:8285",
        "MEMORY_PYTHON_URL",
        doc="URL of memory-python's health, for letta-bridge doctor; null: not checked",
        pattern="^https?://[^/@]+(/|$)",
    )
    catch_up_max_turns: int = setting(
        20, doc="maximum number of missed turns that catch-up sends in full", reload=True, ge=1
    )
    catch_up_max_characters: int = setting(
        8000, doc="maximum characters of missed turns that catch-up sends", reload=True, ge=500
    )
    canned_sentences: TextList = setting(
        (canned_sentences.CHINESE, canned_sentences.ENGLISH),
        doc="memory-python's plain sentences (memory.answer.sentences), which are nobody's answer; for replies and "
        "records of a release that does not mark them",
        reload=True,
    )


class StreamingSettings(Section):
    """Replies in parts while the agent speaks, for tasks that ask for it with meta.stream."""

    mode: Literal["on_request", "always", "never"] = setting(
        "on_request",
        "STREAMING_MODE",
        doc="which replies are streamed: those of tasks with meta.stream and of the personas below, all, or none",
        reload=True,
    )
    personas: TextList = setting((), doc="personas whose replies are streamed unless meta.stream is false", reload=True)
    markdown: Literal["remove", "keep"] = setting(
        "remove", doc="Markdown in the speech of a sentence; its text always keeps it", reload=True
    )
    barge_in: bool = setting(
        False, doc="a new message of a user breaks off the streamed reply to the one before", reload=True
    )
    first_piece_characters: int = setting(
        12, doc="characters after which the first piece of a reply may end at a clause", reload=True, ge=1
    )
    max_piece_characters: int = setting(
        200, doc="characters after which a sentence is cut at a clause", reload=True, ge=20
    )

    def wanted(self, asked: bool | None, persona: str) -> bool:  # what meta.stream says, or nothing
        """Whether the reply to a task is streamed."""
        if self.mode != "on_request":
            return self.mode == "always"
        return persona in self.personas if asked is None else asked


class BudgetSettings(Section):
    """Tokens of Letta's model a day, as Letta counts them; days are UTC. 0 is no limit."""

    soft: int = setting(0, doc="tokens after which memory-python answers until midnight", reload=True, ge=0)
    hard: int = setting(0, doc="tokens after which an error reply answers until midnight", reload=True, ge=0)


class LimitSettings(Section):
    """What one user, and all of them, may ask for, over all bridges of the queue. 0 switches a limit off."""

    turns_per_minute: float = setting(
        0.0, "LIMIT_TURNS_PER_MINUTE", doc="turns a user may take in the long run", reload=True, ge=0
    )
    burst: int = setting(10, "LIMIT_BURST", doc="turns a quiet user may take at once", reload=True, ge=1)
    user_tokens: BudgetSettings = BudgetSettings()
    all_tokens: BudgetSettings = BudgetSettings()
    max_age_seconds: float = setting(
        0.0,
        "LIMIT_MAX_AGE_SECONDS",
        doc="seconds after which a waiting task is refused",
        reload=True,
        ge=0,
    )
    max_pending_per_user: int = setting(
        0, "LIMIT_MAX_PENDING_PER_USER", doc="maximum number of waiting tasks of one user", reload=True, ge=0
    )


class SessionSettings(Section):
    """Where it is kept which agent is whose."""

    file: str = setting("sessions.db", doc="SQLite file below the data directory")
    cached: int = setting(50_000, doc="sessions kept in memory", ge=1)
    max_data_bytes: int = setting(65_536, doc="maximum size of a session's data, and of its metadata", ge=1024)
    expires_in_hours: float | None = setting(
        None, "SESSION_EXPIRES_IN_HOURS", doc="hours after which a session ends; its agent stays; empty: never", gt=0
    )
    sliding: bool = setting(True, doc="count those hours from a session's last use; false: from when it got its agent")
    cleanup_interval_seconds: float = setting(600.0, doc="seconds between two clean-ups of sessions", ge=1)
    deleted_retention_hours: float = setting(
        720.0,
        "SESSION_DELETED_RETENTION_HOURS",
        doc="hours an ended session can be undeleted; then a cleanup removes it",
        ge=0,
    )


class JournalSettings(Section):
    """What users and agents said, kept in the database; without one there is no journal."""

    enabled: bool = setting(True, "JOURNAL_ENABLED", doc="store every answered turn", reload=True)
    retention_days: int = setting(
        0, "JOURNAL_RETENTION_DAYS", doc="days a message is kept; 0: for ever", reload=True, ge=0, le=36_500
    )
    temporary: bool = setting(
        False,
        "JOURNAL_TEMPORARY",
        doc="keep also what no agent may remember: memory_type temporary, users who switched permanent memory off",
        reload=True,
    )
    backlog_turns: int = setting(
        100_000, doc="turns that may wait in Redis while the database is away; later ones are not kept", ge=1
    )
    backlog_bytes: int = setting(268_435_456, doc="bytes of the turns that may wait; later ones are not kept", ge=1024)


class UploadSettings(Section):
    """What input_file may name."""

    root: str = setting("uploads", "UPLOAD_ROOT", doc="directory; relative to the data directory of the tenant")
    max_bytes: int = setting(262_144, doc="maximum size of a file", reload=True, ge=1)
    shared: bool = setting(
        False,
        "UPLOAD_SHARED",
        doc="let every user's tasks name the files outside the users' folders, too; false: only each user's own folder",
        reload=True,
    )


class StorageSettings(Section):
    """Where this host keeps what is not in the database."""

    data_dir: str = setting("data", "DATA_DIR", doc="directory of run-time data")


class TelemetrySettings(Section):
    """What is sent to OpenTelemetry; metrics are served on the HTTP port."""

    traces: bool = setting(
        False, "BRIDGE_TRACES", doc="send OpenTelemetry spans, as the OTEL_ variables say; needs letta-bridge[otel]"
    )


class HttpSettings(Section):
    """The bridge's own HTTP port."""

    host: str = setting("127.0.0.1", "BRIDGE_HTTP_HOST", doc="address to bind")
    port: int = setting(8290, "BRIDGE_HTTP_PORT", doc="port to bind; 0 takes a free one", ge=0, lt=65536)
    api_token: HttpToken | None = setting(
        None, "BRIDGE_API_TOKEN", doc="token that callers of /api must send; needed unless host is the loopback address"
    )


class BridgeSettings(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis: RedisSettings = RedisSettings()
    logs: LogSettings = LogSettings()
    tenant: TenantSettings = TenantSettings()
    queue: QueueSettings = QueueSettings()
    letta: LettaSettings = LettaSettings()
    agents: AgentSettings = AgentSettings()
    fallback: FallbackSettings = FallbackSettings()
    streaming: StreamingSettings = StreamingSettings()
    limits: LimitSettings = LimitSettings()
    sessions: SessionSettings = SessionSettings()
    database: DatabaseConfig = DatabaseConfig()
    journal: JournalSettings = JournalSettings()
    vectors: VectorSettings = VectorSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    uploads: UploadSettings = UploadSettings()
    storage: StorageSettings = StorageSettings()
    bridge: HttpSettings = HttpSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _use_tenant_schema(self) -> Self:
        # Applied once here: a caller that forgot it would read another tenant's schema.
        object.__setattr__(self, "database", self.database.of_tenant(self.tenant.name))
        return self

    @model_validator(mode="after")
    def _interrupts_are_not_handed_over(self) -> Self:
        if self.queue.control == self.fallback.queue:
            raise ValueError(
                f"queue.control {self.queue.control} is fallback.queue, from which memory-python takes tasks; name "
                "another list"
            )
        return self

    @property
    def journals(self) -> bool:
        """Whether answered turns are journalled."""
        return self.journal.enabled and self.database.db_url is not None

    @property
    def data_dir(self) -> Path:
        """Where run-time data lies."""
        return Path(self.storage.data_dir)

    @property
    def tenant_dir(self) -> Path:
        """Directory of this tenant's local state."""
        return self.data_dir / f"tenant-{self.tenant.name}" if self.tenant.name else self.data_dir

    @property
    def session_file(self) -> Path:
        """File of sessions and choices, used without a database and during an outage."""
        return self.tenant_dir / self.sessions.file

    @property
    def upload_dir(self) -> Path:
        """Directory that holds a folder of uploads for each user of this tenant."""
        return self.tenant_dir / self.uploads.root


def read_settings(
    config: Path | None = None, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Loaded[BridgeSettings]:
    """The bridge's settings.

    Args:
        config: config.json; by default what LETTA_BRIDGE_CONFIG names, else ./config.json. One that is named and
            missing is an error.
        environ: the environment, by default this process's.
        flags: dotted path → value, from the command line.

    Raises:
        SettingsError: one sentence for the operator.
    """
    environ = os.environ if environ is None else environ
    path, named = config_file(config, LAYOUT, environ)
    loaded = load(BridgeSettings, LAYOUT, config=path, environ=environ, flags=flags, must_exist=named)
    if loaded.settings.vectors.enabled and loaded.settings.database.db_url is None:
        raise SettingsError(
            "vectors.enabled is on, and there is no database to read the journal from; set DATABASE_URL, or "
            "VECTORS_ENABLED=false"
        )
    return loaded
