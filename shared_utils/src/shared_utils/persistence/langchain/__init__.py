"""LangChain on the passage stores. Needs the extra ``shared-utils[langchain]``; nothing else here imports it."""

from shared_utils.persistence.langchain.vector_store import PassageVectorStore

__all__ = ["PassageVectorStore"]
