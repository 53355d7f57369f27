"""A LangChain vector store on any of the passage stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from shared_utils.persistence.langchain.documents import diverse, document_of, passages_of
from shared_utils.persistence.langchain.loop_thread import LoopThread
from shared_utils.persistence.vectors import Match, Passage, PassageStore, Scope


class PassageVectorStore(VectorStore):
    """One agent's or source's passages as LangChain's vector store.

    Everything it reads, writes and deletes is within its scope. Filters are those of
    :mod:`shared_utils.persistence.vectors.filters`.

    Made where an event loop runs, it works in that one, as the store must; its synchronous methods may then be called
    from other threads. Made elsewhere, it has a loop of its own, and the store must not have been used before.

    Args:
        store: where the passages are; stays open.
        embedding: turns texts into vectors.
        model: what the embedding's model is called in the store.
        scope: whose passages. With :meth:`Scope.everything` new ones are nobody's.
    """

    def __init__(self, store: PassageStore, embedding: Embeddings, *, model: str, scope: Scope) -> None:
        self._store = store
        self._embedding = embedding
        self._model = model
        self._scope = scope
        self._loop_thread = LoopThread()

    @property
    def embeddings(self) -> Embeddings:
        """What turns texts into vectors."""
        return self._embedding

    def close(self) -> None:
        """Close the store and end the loop where this object has one of its own; else both are the caller's."""
        self._loop_thread.close(self._store.close)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **_: Any,
    ) -> list[str]:
        """Add texts, or replace those of the same id; their ids."""
        passages = passages_of(texts, metadatas, ids, model=self._model, scope=self._scope)
        vectors = self._embedding.embed_documents([passage.text or "" for passage in passages])
        return self._loop_thread.wait(self._added(passages, vectors))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **_: Any,
    ) -> list[str]:
        """See the synchronous one, as for all of these."""
        passages = passages_of(texts, metadatas, ids, model=self._model, scope=self._scope)
        vectors = await self._embedding.aembed_documents([passage.text or "" for passage in passages])
        return await self._loop_thread.done(self._added(passages, vectors))

    def delete(self, ids: list[str] | None = None, *, filter: Mapping[str, Any] | None = None, **_: Any) -> bool:  # noqa: A002  # LangChain's name
        """Delete by ids, by filter or both.

        Raises:
            ValueError: neither is given; to delete everything, ask the store.
        """
        return self._loop_thread.wait(self._deleted(ids, filter))

    async def adelete(
        self,
        ids: list[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002  # LangChain's name
        **_: Any,
    ) -> bool:
        return await self._loop_thread.done(self._deleted(ids, filter))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Those there are, in the order asked for."""
        return self._loop_thread.wait(self._got(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return await self._loop_thread.done(self._got(ids))

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The nearest documents; ``filter`` may be given."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """The nearest documents and their scores; more is nearer."""
        return _scored(self._loop_thread.wait(self._found(self._embedding.embed_query(query), k, **kwargs)))

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        vector = await self._embedding.aembed_query(query)
        return _scored(await self._loop_thread.done(self._found(vector, k, **kwargs)))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents nearest to a vector."""
        return [document for document, _ in _scored(self._loop_thread.wait(self._found(embedding, k, **kwargs)))]

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        return [document for document, _ in _scored(await self._loop_thread.done(self._found(embedding, k, **kwargs)))]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Documents near the query that differ from each other, of the nearest ``fetch_k``."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """The same for a vector."""
        found = self._loop_thread.wait(self._found(embedding, fetch_k, embeddings=True, **kwargs))
        return [document_of(match.passage) for match in diverse(found, k, lambda_mult)]

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        found = await self._loop_thread.done(self._found(embedding, fetch_k, embeddings=True, **kwargs))
        return [document_of(match.passage) for match in diverse(found, k, lambda_mult)]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A vector store with these texts in it; ``store``, ``model`` and ``scope`` are needed as well."""
        made = cls(kwargs.pop("store"), embedding, model=kwargs.pop("model"), scope=kwargs.pop("scope"))
        made.add_texts(texts, metadatas, ids=ids)
        return made

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        made = cls(kwargs.pop("store"), embedding, model=kwargs.pop("model"), scope=kwargs.pop("scope"))
        await made.aadd_texts(texts, metadatas, ids=ids)
        return made

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (cosine + 1) / 2

    async def _added(self, passages: Sequence[Passage], vectors: Sequence[Sequence[float]]) -> list[str]:
        await self._store.store_all(
            [replace(passage, embedding=vector) for passage, vector in zip(passages, vectors, strict=True)]
        )
        return [passage.passage_id for passage in passages]

    async def _deleted(self, ids: Sequence[str] | None, where: Mapping[str, Any] | None) -> bool:
        if ids is None and not where:
            raise ValueError("pass ids or a filter of what to delete; to delete a whole scope, use the store")
        await self._store.delete(self._scope, passage_ids=ids, where=where)
        return True

    async def _got(self, ids: Sequence[str]) -> list[Document]:
        return [document_of(passage) for passage in await self._store.get(ids, self._scope, embeddings=False)]

    async def _found(
        self,
        vector: Sequence[float],
        k: int,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002  # LangChain's name
        embeddings: bool = False,
        **_: Any,
    ) -> Sequence[Match]:
        # Cosine, whatever the collection's metric: it is what scores and differences here are made of.
        return await self._store.search(
            {self._model: vector}, self._scope, k=k, where=filter, metric="cosine", embeddings=embeddings
        )


def _scored(matches: Sequence[Match]) -> list[tuple[Document, float]]:
    return [(document_of(match.passage), match.score) for match in matches]
