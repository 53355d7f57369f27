"""The settings of memory-python; each leaf names its environment variable."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from shared_utils.config.setting_types import HttpAddress, HttpKey
from shared_utils.config.settings import LogSettings, RedisSettings, Section, TenantSettings, setting
from shared_utils.contracts import canned_sentences
from shared_utils.contracts.limits import MAX_QUEUE_NAME_LENGTH, TaskLimits
from shared_utils.llm.embeddings import EmbeddingSettings
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.vectors.settings import VectorSettings


class HttpSettings(Section):
    """Where health is served."""

    host: str = setting("127.0.0.1", "MEMORY_HTTP_HOST", doc="address the health endpoints are served on")
    port: int = setting(
        8285, "MEMORY_HTTP_PORT", doc="port of the health endpoints; 0 picks a free one", ge=0, lt=65536
    )


class Sentences(Section):
    """The canned sentences, used if no model answers."""

    zh: str = setting(
        canned_sentences.CHINESE,
        doc="canned sentence in Chinese",
        min_length=1,
    )
    en: str = setting(
        canned_sentences.ENGLISH,
        doc="canned sentence in English",
        min_length=1,
    )


class Instructions(Section):
    """The model's instructions."""

    zh: str = setting(
        "你是一个友好的聊天伙伴。长期记忆暂时不可用，你只知道下面的近期对话。简短地回答，不知道的就直说，不要编造。",
        doc="system prompt for Chinese conversations",
    )
    en: str = setting(
        "You are a friendly companion in a chat. Long-term memory is away for the moment: all you know is the recent "
        "conversation below. Answer briefly, in the user's language, and say so where you do not know.",
        doc="system prompt for all other conversations",
    )


class AnswerSettings(Section):
    """How the bridge's tasks are answered."""

    model: str | None = setting(None, "MEMORY_MODEL", doc="model that answers; without one a canned sentence is sent")
    base_url: HttpAddress = setting(
        "https://api.openai.com/v1",
        "OPENAI_BASE_URL",
        doc="OpenAI-compatible endpoint",
    )
    api_key: HttpKey | None = setting(None, "OPENAI_API_KEY", doc="its key, if it needs one")
    timeout_seconds: float = setting(
        15.0, doc="seconds from taking a task to the canned sentence; fewer if the user waits less", gt=0
    )
    max_tokens: int = setting(400, doc="length of an answer", gt=0)
    temperature: float = setting(0.7, doc="of the model", ge=0, le=2)
    concurrency: int = setting(8, doc="model requests at once", gt=0, le=256)
    max_waiting: int = setting(1000, doc="tasks held for answers before the intake pauses", gt=0)
    language: Literal["zh", "en"] = setting(
        "zh", doc="language of the canned sentence if neither text nor meta determines it"
    )
    sentences: Sentences = Sentences()
    instructions: Instructions = Instructions()


class SummarySettings(Section):
    """When a user's oldest messages become one summary."""

    enabled: bool = setting(False, "MEMORY_SUMMARY", doc="summarise through the model")
    model: str | None = setting(None, doc="model that summarises; default: answer.model")
    at_fraction: float = setting(0.8, doc="how full a user's list is when it is summarised", gt=0, le=1)
    replace_fraction: float = setting(0.6, doc="oldest part that is replaced", gt=0, le=1)
    cooldown_success_seconds: int = setting(300, doc="seconds until the same user is summarised again", gt=0)
    cooldown_failure_seconds: int = setting(900, doc="seconds until a retry after a failure", gt=0)
    timeout_seconds: float = setting(60.0, doc="seconds a summary may take", gt=0)


class RecallSettings(Section):
    """Recall of a user's earlier turns for an answer, if vectors.enabled."""

    memories: int = setting(6, doc="memories that the model gets; 0: no recall", ge=0, le=50)
    characters: int = setting(2000, doc="characters of all memories together", ge=100)
    score_margin: float = setting(
        0.2, doc="similarity (cosine) by which a memory may be behind the nearest one; others are left out", ge=0, le=2
    )
    min_score: float | None = setting(
        None,
        doc="similarity (cosine) below which a memory is left out; empty: none is. It fits one embedding model only",
        ge=-1,
        le=1,
    )
    timeout_seconds: float = setting(0.5, doc="seconds that recall may take; then the answer is given without it", gt=0)


class MemorySettings(Section):
    """Short-term memory."""

    queue: str = setting(
        "user_input_queue",
        "MEMORY_QUEUE",
        doc="list to which producers LPUSH",
        pattern="^[^{}]+$",
        min_length=1,
        max_length=MAX_QUEUE_NAME_LENGTH,
    )
    max_memory_size: int = setting(100, doc="messages kept of a user", gt=0, le=10_000)
    max_memory_bytes: int = setting(
        16_777_216, doc="bytes of memory for the messages of a user; the oldest beyond are dropped", ge=65_536
    )
    memory_ttl_hours: float = setting(24.0, doc="hours an inactive user's messages are kept", gt=0)
    context_window: int = setting(20, doc="newest messages that the model gets", gt=0, le=1000)
    global_memory_limit: int = setting(1000, doc="messages kept of all users", gt=0, le=100_000)
    global_memory_bytes: int = setting(
        67_108_864, doc="bytes of memory for the messages of all users; the oldest beyond are dropped", ge=65_536
    )
    cleanup_interval_hours: float = setting(6.0, doc="hours between two cleanups", gt=0)
    cleanup_age_hours: float = setting(48.0, doc="age in hours from which on a cleanup removes a message", gt=0)
    survey_interval_seconds: int = setting(300, doc="seconds between two counts of users and messages", gt=0)
    repeat_window_seconds: int = setting(3600, doc="seconds in which a repeated task is not stored again", gt=0)
    batch: int = setting(100, doc="tasks taken at once", gt=0, le=1000)
    lease_seconds: float = setting(30.0, doc="seconds without a renewal after which another instance takes over", gt=1)
    shutdown_grace_seconds: float = setting(
        10.0, "MEMORY_SHUTDOWN_GRACE_SECONDS", doc="seconds to finish answers when stopped", ge=0
    )
    max_dead_letters: int = setting(1000, doc="dead letters kept; each holds 16 KiB of its payload at most", gt=0)
    http: HttpSettings = HttpSettings()
    answer: AnswerSettings = AnswerSettings()
    summary: SummarySettings = SummarySettings()
    recall: RecallSettings = RecallSettings()

    @model_validator(mode="after")
    def _summary_has_a_model(self) -> MemorySettings:
        if self.summary.enabled and not (self.summary.model or self.answer.model):
            raise ValueError("summary.enabled needs a model: set summary.model, answer.model or MEMORY_MODEL")
        return self


class QueueLimits(TaskLimits):
    """The limits of a task, from the section ``queue``; its other settings are the bridge's alone."""

    model_config = ConfigDict(extra="ignore")


class ServiceSettings(Section):
    """The sections of config.json this service reads."""

    queue: QueueLimits = Field(default_factory=QueueLimits)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    logs: LogSettings = Field(default_factory=LogSettings)
    tenant: TenantSettings = Field(default_factory=TenantSettings)
    database: DatabaseConfig = Field(default_factory=DatabaseConfig)
    vectors: VectorSettings = Field(default_factory=VectorSettings)
    embeddings: EmbeddingSettings = Field(default_factory=EmbeddingSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)

    @model_validator(mode="after")
    def _use_tenant_schema(self) -> Self:
        object.__setattr__(self, "database", self.database.of_tenant(self.tenant.name))
        return self
