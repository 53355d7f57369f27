"""Embeddings without a model: words and Chinese bigrams hashed into a unit vector, so that similar texts are near."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Iterator

DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
    "text-embedding-v3": 1024,
    "text-embedding-v4": 1024,
    "embedding-3": 2048,
}
DEFAULT_DIMENSION = 1536

_WORD = re.compile(r"[a-z0-9']+")
_CHINESE = re.compile(r"[\u3400-\u9fff]+")


def embedding(text: str, dimension: int) -> list[float]:
    """A vector of length 1; the same text always gives the same one."""
    vector = [0.0] * dimension
    for feature in _features(text.lower()):
        digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        vector[(number >> 1) % dimension] += 1.0 if number & 1 else -1.0
    length = math.hypot(*vector)
    if not length:
        return [1.0, *vector[1:]]
    return [value / length for value in vector]


def packed(vector: list[float]) -> str:
    """The base64 form of the API: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _features(text: str) -> Iterator[str]:
    for word in _WORD.findall(text):
        yield word
        yield from (f"#{word[i : i + 3]}" for i in range(len(word) - 2))
    for run in _CHINESE.findall(text):
        yield from run
        yield from (run[i : i + 2] for i in range(len(run) - 1))
