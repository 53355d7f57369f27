"""Which thread, namespace and checkpoint a LangGraph config names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from uuid import UUID

from langchain_core.runnables import RunnableConfig


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """Where a checkpoint belongs."""

    thread_id: str
    namespace: str
    checkpoint_id: str | None

    @classmethod
    def of(cls, config: RunnableConfig) -> Self:
        """The place a config names."""
        named = config["configurable"]
        thread_id = identity("thread_id", named.get("thread_id"))
        return cls(thread_id, named.get("checkpoint_ns") or "", named.get("checkpoint_id"))

    def config(self, checkpoint_id: str) -> RunnableConfig:
        """The config that names a checkpoint of this thread and namespace."""
        named = {"thread_id": self.thread_id, "checkpoint_ns": self.namespace, "checkpoint_id": checkpoint_id}
        return {"configurable": named}


def identity(name: str, value: object) -> str:
    """An id as it is stored: texts as they are, whole numbers and UUIDs as their text.

    Raises:
        ValueError: it is nobody's, as None is: everybody who forgot theirs would share it.
    """
    if isinstance(value, (str, int, UUID)) and not isinstance(value, bool) and value != "":
        return str(value)
    raise ValueError(
        f"{name} is {value!r}, which names nothing; give a text, as in {{'configurable': {{'{name}': …}}}}"
    )
