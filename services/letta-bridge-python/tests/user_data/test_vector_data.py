"""A user's vectors are told, exported and erased; nobody else's are touched."""

from __future__ import annotations

import json
from pathlib import Path

from letta_bridge.user_data.vector_data import VectorUserData
from shared_utils.persistence.vectors import InMemoryPassageStore, Passage, Scope
from shared_utils.persistence.vectors.memories import user_scope, user_source


async def test_only_one_users_vectors_are_exported_and_erased(tmp_path: Path) -> None:
    store = InMemoryPassageStore()
    users = ["ada", "小明", "ada2", "a" * 1000, "nul\0"]
    for user in users:
        await store.store_all(
            [
                Passage(
                    passage_id=f"{user_source(user)[:60]} {n}",
                    model="m",
                    embedding=[1.0, n],
                    text=f"{n}",
                    source_id=user_source(user),
                )
                for n in range(3)
            ]
        )
    trace = VectorUserData(store)
    assert len({user_source(user) for user in users}) == len(users)
    assert await trace.count("ada") == {"vectors": 3}
    assert await trace.export("ada", tmp_path) == {"vectors": 3}
    lines = [json.loads(line) for line in (tmp_path / "vectors.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == ["0", "1", "2"]
    assert await trace.erase("ada") == {"vectors": 3}
    assert await trace.erase("ada") == {"vectors": 0}
    assert await trace.count("ada") == {"vectors": 0}
    left = await store.page(Scope.everything())
    assert len(left.passages) == 12
    assert len((await store.page(user_scope("a" * 1000))).passages) == 3
