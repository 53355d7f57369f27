"""Points to search among, and the nearest of each query. Needs numpy, which measure.py brings.

Embeddings of texts lie near a surface of few dimensions, and in clusters: so do these. Each is a mixture of 48
directions around one of 1000 centres, with a little noise in all dimensions.

    python points.py FOLDER POINTS DIMENSIONS QUERIES

writes ``points.f32`` and ``queries.f32``, rows of single precision, and ``truth.json``: share → for each query the ten
nearest of those points whose number is below that share of all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

_CENTRES, _DIRECTIONS, _K = 1000, 48, 10
SHARES = (1.0, 0.1, 0.01, 0.001)


def main(folder: Path, points: int, dimensions: int, queries: int) -> None:
    """Write the files."""
    numbers = np.random.default_rng(1)
    directions = numbers.standard_normal((_DIRECTIONS, dimensions), dtype=np.float32)
    centres = numbers.standard_normal((_CENTRES, _DIRECTIONS), dtype=np.float32)
    count = points + queries
    inner = centres[numbers.integers(0, _CENTRES, count)] + 0.5 * numbers.standard_normal((count, _DIRECTIONS))
    made = (inner.astype(np.float32) @ directions) / np.sqrt(_DIRECTIONS).astype(np.float32)
    made += 0.1 * numbers.standard_normal(made.shape, dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    stored, asked = made[:points], made[points:]
    stored.tofile(folder / "points.f32")
    asked.tofile(folder / "queries.f32")
    truth = {}
    for share in SHARES:
        part = stored[: max(_K, round(points * share))]
        near = np.argsort(-(asked @ part.T), axis=1)[:, :_K]
        truth[str(share)] = near.tolist()
    (folder / "truth.json").write_text(json.dumps(truth))


main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
