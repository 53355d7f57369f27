"""LangGraph on the checkpoint stores. Only the extra ``letta-bridge-common[langgraph]`` installs it."""

from shared_utils.persistence.langgraph.saver import CheckpointSaver

__all__ = ["CheckpointSaver"]
