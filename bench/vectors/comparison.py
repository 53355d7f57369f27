"""Recall and throughput of the passage store, beside pgvector's client used by hand and langchain-postgres.

measure.py runs it; see README.md.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector_async

from local_stack.postgres import Postgres
from local_stack.programs import environment
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.vectors import DatabasePassageStore, Passage, Scope, VectorSettings

_HERE: Final = Path(__file__).parent
_BATCH: Final = 1000
_STORED: Final = 5 * _BATCH
"""Passages of a round."""
_WIDTH: Final = 100
_ROUNDS: Final = 9
_K: Final = 10
_BY_HAND_TABLE: Final = """
CREATE TABLE by_hand (
    id bigserial NOT NULL, passage_id text COLLATE "C" PRIMARY KEY, embedding vector({dimensions}) NOT NULL,
    embedding_dim integer NOT NULL, model text NOT NULL, metadata jsonb NOT NULL, agent_id text COLLATE "C",
    source_id text COLLATE "C", text text, content_hash text NOT NULL, created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX ON by_hand (agent_id, passage_id) WHERE agent_id IS NOT NULL;
CREATE INDEX ON by_hand (source_id, passage_id) WHERE source_id IS NOT NULL;
"""
_BY_HAND_STORE: Final = """
INSERT INTO by_hand (passage_id, embedding, embedding_dim, model, metadata, agent_id, source_id, text, content_hash,
                     created_at, updated_at)
VALUES (%s, %s, %s, 'points', %s, %s, NULL, %s, %s, now(), now())
ON CONFLICT (passage_id) DO UPDATE SET embedding = EXCLUDED.embedding, metadata = EXCLUDED.metadata,
    text = EXCLUDED.text, content_hash = EXCLUDED.content_hash, updated_at = now()
WHERE by_hand.content_hash <> EXCLUDED.content_hash
"""
_BY_HAND_SEARCH: Final = """
SELECT passage_id, model, text, agent_id, source_id, metadata, content_hash, created_at, updated_at,
       embedding <=> %s AS distance
FROM {table} ORDER BY embedding <=> %s LIMIT 10
"""


async def main() -> None:
    """Measure, and print."""
    options = _options()
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vectors-")))
        python = options.langchain
        sizes = [str(number) for number in (options.points, options.dimensions, options.queries)]
        _run(str(python), str(_HERE / "points.py"), str(folder), *sizes)
        server = Postgres(folder / "postgres", durable=False)
        held.enter_context(_running(server))
        server.create_database("vectors")
        async with _bench(server.url("vectors"), folder, python, options) as bench:
            await bench.run()


class Bench:
    """One run."""

    def __init__(
        self, store: DatabasePassageStore, hand: psycopg.AsyncConnection[object], folder: Path, peer: Peer
    ) -> None:
        self._store = store
        self._hand = hand
        self._peer = peer
        self._truth = json.loads((folder / "truth.json").read_text())
        self._queries = list(_rows(folder / "queries.f32", peer.dimensions))
        self._folder = folder

    async def run(self) -> None:
        """All of it."""
        await self._storing()
        await self._building()
        await self._recall()
        await self._searching()

    async def _storing(self) -> None:
        points = _passages(self._folder / "points.f32", self._peer.dimensions)
        seconds: dict[str, list[float]] = {"this store": [], "pgvector by hand": [], "langchain-postgres": []}
        for number in range(_ROUNDS):
            batch = [next(points) for _ in range(_STORED)]
            seconds["this store"].append(await _timed(lambda batch=batch: self._store.store_all(batch)) / _STORED)
            seconds["pgvector by hand"].append(await _timed(lambda batch=batch: self._store_by_hand(batch)) / _STORED)
            seconds["langchain-postgres"].append(self._peer.ask(f"store {number * _BATCH}") / _BATCH)
        _compare("batch store, passages/s", seconds)
        batch = []
        for passage in points:
            batch.append(passage)
            if len(batch) == _BATCH:
                await self._store.store_all(batch)
                batch = []
        if batch:
            await self._store.store_all(batch)

    async def _building(self) -> None:
        seconds = await _timed(self._store.build_index)
        [table] = (await self._store.statistics()).tables
        mib = 2**20
        print(
            f"index: {table.index.state} after {seconds:.0f} s; {table.passages} passages of {table.dimensions}, "
            f"table {table.table_bytes / mib:.0f} MiB, indexes {table.index_bytes / mib:.0f} MiB"
        )

    async def _recall(self) -> None:
        points = (await self._store.statistics()).passages
        for share, nearest in self._truth.items():
            below = max(_K, round(points * float(share)))
            where = None if below >= points else {"number": {"$lt": below}}
            hits, least, times = 0, _K, list[float]()
            for query, wanted in zip(self._queries, nearest, strict=True):
                began = time.perf_counter()
                found = await self._store.search({"points": query}, Scope.everything(), k=_K, where=where)
                times.append(time.perf_counter() - began)
                least = min(least, len(found))
                hits += len({match.passage.passage_id for match in found} & {f"p-{number}" for number in wanted})
            print(
                f"filter {float(share):.1%}: recall@{_K} {hits / len(nearest) / _K:.4f}, fewest matches {least}, "
                f"median {statistics.median(times) * 1e3:.1f} ms, first {times[0] * 1e3:.1f} ms"
            )

    async def _searching(self) -> None:
        seconds: dict[str, list[float]] = {"this store": [], "pgvector by hand": [], "langchain-postgres": []}
        number = len(self._queries)
        for _ in range(_ROUNDS):
            seconds["this store"].append(await _timed(self._search) / number)
            seconds["pgvector by hand"].append(await _timed(self._search_by_hand) / number)
            seconds["langchain-postgres"].append(self._peer.ask(f"search 0 {number}") / number)
        _compare("search, queries/s", seconds)

    async def _search(self) -> None:
        for query in self._queries:
            await self._store.search({"points": query}, Scope.everything(), k=_K)

    async def _search_by_hand(self) -> None:
        statement = _BY_HAND_SEARCH.format(table=self._peer.table).encode()
        for query in self._queries:
            vector = Vector(query)
            await (await self._hand.execute(statement, [vector, vector])).fetchall()

    async def _store_by_hand(self, batch: Sequence[Passage]) -> None:
        rows = [
            (
                one.passage_id,
                Vector(one.embedding),
                len(one.embedding),
                json.dumps(one.metadata),
                one.agent_id,
                one.text,
                one.hashed,
            )
            for one in batch
        ]
        async with self._hand.transaction(), self._hand.cursor() as cursor:
            await cursor.executemany(_BY_HAND_STORE, rows)


class Peer:
    """langchain-postgres, in a process of its own."""

    def __init__(self, python: Path, url: str, folder: Path, dimensions: int, table: str) -> None:
        self.dimensions = dimensions
        self.table = table
        words = [str(python), str(_HERE / "langchain_side.py"), url, str(folder), str(dimensions), table, str(_WIDTH)]
        self._process = subprocess.Popen(  # noqa: S603 - this folder's own program
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        self._answer()

    def ask(self, line: str) -> float:
        """Seconds it took."""
        if self._process.stdin is None:
            raise AssertionError("the process has a standard input")
        print(line, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> str:
        answer = self._process.stdout.readline() if self._process.stdout else ""
        if not answer:
            raise SystemExit("langchain-postgres ended early; its words are above")
        return answer


@contextlib.asynccontextmanager
async def _bench(url: str, folder: Path, python: Path, options: argparse.Namespace) -> AsyncIterator[Bench]:
    config = DatabaseConfig.model_validate({"db_url": url, "query_timeout": 600})
    settings = VectorSettings.model_validate({"index": {"ef_search": _WIDTH, "memory": 1024}})
    store = DatabasePassageStore(Database(config), settings)
    await store.prepare("points", options.dimensions)
    table = f"{config.schema_name}.{settings.table_name}_1"
    peer = Peer(python, url, folder, options.dimensions, table)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as hand:
        await register_vector_async(hand)
        await hand.execute(_BY_HAND_TABLE.format(dimensions=options.dimensions).encode())
        await hand.execute(f"SET hnsw.ef_search = {_WIDTH}".encode())
        try:
            yield Bench(store, hand, folder, peer)
        finally:
            peer.close()
            await store.close()


@contextlib.contextmanager
def _running(server: Postgres) -> Iterator[None]:
    server.start()
    try:
        while not server.is_ready():
            time.sleep(0.1)
        yield
    finally:
        server.stop()


def _passages(path: Path, dimensions: int) -> Iterator[Passage]:
    for number, row in enumerate(_rows(path, dimensions)):
        yield Passage(
            passage_id=f"p-{number}",
            model="points",
            embedding=row,
            text=f"text of {number}",
            agent_id=f"agent-{number % 200}",
            metadata={"number": number},
        )


def _rows(path: Path, dimensions: int) -> Iterator[list[float]]:
    with path.open("rb") as file:
        while part := file.read(4 * dimensions):
            yield array.array("f", part).tolist()


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _compare(what: str, seconds: dict[str, list[float]]) -> None:
    """The medians, and the median of what each round's ratio was: the machine is not equally quick in each."""
    ours = seconds["this store"]
    for name, theirs in seconds.items():
        ratio = statistics.median(other / own for own, other in zip(ours, theirs, strict=True))
        rate = 1 / statistics.median(theirs)
        print(f"{what}: {name} {rate:.0f} (this store is {ratio:.2f} times as fast)")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, env=environment())  # noqa: S603 - this folder's programs and the project's uv


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langchain", type=Path, required=True, help="a Python with langchain-postgres and numpy")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--queries", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
