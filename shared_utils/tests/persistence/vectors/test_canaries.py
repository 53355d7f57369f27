"""No search brings back what is another user's, however near it is.

200 users with 500 memories each and 10 000 searches are asked about with VECTOR_CANARIES=full.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from shared_utils.persistence.vectors import Scope

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

FULL = os.environ.get("VECTOR_CANARIES") == "full"
USERS, MEMORIES, SEARCHES = (200, 500, 10_000) if FULL else (20, 50, 200)
DIMENSIONS = 32
INDEXED = ("postgresql", "opengauss-6.0.2", "opengauss-7.0")
PLACES = [
    *((engine, False) for engine in ("memory", "postgresql-plain", "opengauss-6.0", *INDEXED)),
    *((engine, True) for engine in INDEXED),
]


@pytest.mark.parametrize(
    ("engine", "indexed"),
    PLACES,
    indirect=["engine"],
    ids=[f"{engine}-{'indexed' if indexed else 'exact'}" for engine, indexed in PLACES],
)
async def test_search_never_returns_passages_of_another_user(
    make_store: Callable[..., Any], passage: Callable[..., Any], vectors: Callable[..., Any], indexed: Any
) -> None:
    store = make_store(exact_below=0 if indexed else 100_000)
    given = vectors(MEMORIES, DIMENSIONS)
    for user in range(USERS):
        # Everybody has the same memories, so that each is as near to the next user's as can be.
        memories = [
            passage(f"{user}-{n}", vector, agent_id=f"agent-{user}", text=f"canary of {user}", metadata={"n": n})
            for n, vector in enumerate(given)
        ]
        await store.store_all(memories)
    if indexed:
        assert [state.state for state in await store.build_index()] == ["ready"]
    numbers = random.Random(7)
    for _ in range(SEARCHES):
        user, k = numbers.randrange(USERS), numbers.choice([1, 10, 40])
        where = numbers.choice([None, {"n": {"$lt": 20}}, {"$not": {"n": 1}}, {"$or": [{"n": 2}, {"n": {"$gt": 5}}]}])
        scope = Scope.agent(f"agent-{user}")
        found = await store.search({"small": numbers.choice(given)}, scope, k=k, where=where)
        assert {match.passage.text for match in found} == {f"canary of {user}"}
        assert len(found) == min(k, 20 if where and "n" in where else k)
