"""LangGraph on the checkpoint stores. Needs the extra ``shared-utils[langgraph]``; nothing else here imports it."""

from shared_utils.persistence.langgraph.saver import CheckpointSaver

__all__ = ["CheckpointSaver"]
