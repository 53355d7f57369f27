"""Which thread, namespace and checkpoint a LangGraph config names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from langchain_core.runnables import RunnableConfig


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint belongs."""

    thread_id: str
    namespace: str
    checkpoint_id: str | None

    @classmethod
    def of(cls, config: RunnableConfig) -> Self:
        """The place a config names."""
        named = config["configurable"]
        return cls(str(named["thread_id"]), named.get("checkpoint_ns", ""), named.get("checkpoint_id"))

    def config(self, checkpoint_id: str) -> RunnableConfig:
        """The config that names a checkpoint of this thread and namespace."""
        named = {"thread_id": self.thread_id, "checkpoint_ns": self.namespace, "checkpoint_id": checkpoint_id}
        return {"configurable": named}
