"""langchain-postgres, in an environment of its own: told on standard input what to do, answers with seconds.

    python langchain_side.py URL FOLDER DIMENSIONS TABLE WIDTH

A line ``store NUMBER`` adds a thousand of the points, from that number on, to an empty table of langchain-postgres's
own; ``search START STOP`` asks these queries of TABLE, one after the other.
"""

from __future__ import annotations

import array
import asyncio
import sys
import time
from pathlib import Path

from langchain_core.embeddings import FakeEmbeddings
from langchain_postgres import PGEngine, PGVectorStore
from langchain_postgres.v2.indexes import HNSWQueryOptions

_BATCH = 1000


def _rows(path: Path, dimensions: int) -> list[list[float]]:
    data = array.array("f")
    with path.open("rb") as file:
        data.fromfile(file, path.stat().st_size // 4)
    return [data[start : start + dimensions].tolist() for start in range(0, len(data), dimensions)]


async def _main(url: str, folder: Path, dimensions: int, table: str, width: int) -> None:
    engine = PGEngine.from_connection_string(url.replace("postgresql://", "postgresql+psycopg://"))
    embedding = FakeEmbeddings(size=dimensions)
    await engine.ainit_vectorstore_table("langchain_points", dimensions, overwrite_existing=True)
    written = await PGVectorStore.create(engine, embedding, "langchain_points")
    schema, _, name = table.partition(".")
    asked = await PGVectorStore.create(
        engine,
        embedding,
        name,
        schema_name=schema,
        id_column="passage_id",
        content_column="text",
        embedding_column="embedding",
        metadata_json_column="metadata",
        index_query_options=HNSWQueryOptions(ef_search=width),
    )
    points = _rows(folder / "points.f32", dimensions)[: 20 * _BATCH]
    queries = _rows(folder / "queries.f32", dimensions)
    print("ready", flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        first = int(numbers[0])
        if what == "store":
            batch = points[first : first + _BATCH]
            texts = [f"text of {number}" for number in range(first, first + len(batch))]
            metadatas = [{"number": first + number} for number in range(len(batch))]
            ids = [f"00000000-0000-0000-0000-{first + number:012}" for number in range(len(batch))]
            began = time.perf_counter()
            await written.aadd_embeddings(texts, batch, metadatas, ids)
        else:
            began = time.perf_counter()
            for query in queries[first : int(numbers[1])]:
                await asked.asimilarity_search_by_vector(query, k=10)
        print(time.perf_counter() - began, flush=True)
    await engine.close()


asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
