"""LangChain on the passage stores. Only the extra ``letta-bridge-common[langchain]`` installs it."""

from shared_utils.persistence.langchain.vector_store import PassageVectorStore

__all__ = ["PassageVectorStore"]
