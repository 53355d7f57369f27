from __future__ import annotations

import base64
import math
import struct

import pytest

from scripted_model import embeddings


def _near(one: str, other: str) -> float:
    pairs = zip(embeddings.embedding(one, 256), embeddings.embedding(other, 256), strict=True)
    return sum(a * b for a, b in pairs)


@pytest.mark.parametrize("text", ["I like tea", "我喜欢乌龙茶", "", "!?"])
def test_a_vector_has_length_one_and_is_repeatable(text: str) -> None:
    vector = embeddings.embedding(text, 1536)

    assert len(vector) == 1536
    assert math.hypot(*vector) == pytest.approx(1)
    assert vector == embeddings.embedding(text, 1536)


def test_similar_texts_are_near() -> None:
    assert _near("my cat likes fish", "the cat likes fresh fish") > _near(
        "my cat likes fish", "stock prices fell today"
    )
    assert _near("我喜欢乌龙茶", "他喜欢乌龙茶吗") > _near("我喜欢乌龙茶", "明天开会讨论预算")


def test_the_packed_form_is_little_endian_floats() -> None:
    assert struct.unpack("<2f", base64.b64decode(embeddings.packed([0.5, -1.0]))) == (0.5, -1.0)
