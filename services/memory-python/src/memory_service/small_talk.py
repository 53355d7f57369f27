"""Recognises small talk ("Thanks!"), for which nothing needs to be recalled, with the embedding model in use.

No similarity of a message and a memory tells this: multilingual models find everything alike (0.75 and more), others
nothing, and for small talk some memory is always the nearest one. So a message is compared with examples of small talk
and examples of other messages, by one and the same model; the nearer ones decide. Each model needs its examples'
vectors once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final

from shared_utils.llm.embeddings import Embedder

_SMALL_TALK: Final = (
    *("Hi there!", "Okay, thanks a lot.", "Good night!", "Bye for now", "That's nice.", "No problem"),
    *("Yeah, right", "Never mind", "Cool", "Hmm, okay", "Wow, amazing!", "Hey, what's up?"),
    *(
        "你好呀!",
        "好,谢谢啦。",
        "拜拜!",
        "真不错。",
        "没关系",
        "是的呢",
        "算了",
        "可以呀",
        "哇,好厉害",
        "哈哈",
        "在吗?",
        "没事",
    ),
)
_OTHERS: Final = (
    *("What is my favourite colour?", "When is my appointment?", "Do you remember where I grew up?"),
    *("Who is my best friend?", "What did I tell you about my health?", "I moved to a new house last week."),
    *("My brother is an engineer.", "Which food do I like?", "What should I cook tonight?"),
    *("I have an exam on Monday.", "How old is my daughter?", "Where did I go on holiday?"),
    *("The bus did not come.", "I repaired the fridge.", "I passed my driving test!"),
    *("I met an old friend in town.", "Which present could I buy for my father?"),
    *("Please remind me of my password hint.", "我最喜欢什么颜色?", "我的预约是几号?", "你还记得我在哪里长大吗?"),
    *(
        "我最好的朋友是谁?",
        "我的身体怎么样?",
        "我上周搬了新家。",
        "我哥哥是工程师。",
        "我喜欢吃什么?",
        "今晚做什么菜好?",
    ),
    *("我周一有考试。", "我女儿几岁了?", "我去哪里度假了?", "公交车没来。", "我修好了冰箱。", "我考过驾照了!"),
    *("我在街上碰到了老朋友。", "买什么送给我爸爸好呢?", "我们的窗户坏了。"),
)
_NEAREST: Final = 3
"""Examples of each kind that decide; with one, a single odd neighbour would."""
_LONGEST: Final = 60
"""Characters; what is longer says something."""

_Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class SmallTalk:
    """The examples as one model sees them."""

    model: str
    small_talk: Sequence[_Vector]
    others: Sequence[_Vector]

    @classmethod
    async def seen_by(cls, embedder: Embedder) -> SmallTalk:
        """The examples of a model, from one request to it.

        Raises:
            EmbeddingsUnavailable: see :class:`shared_utils.llm.embeddings.Embedder`.
            EmbeddingsRefused: likewise.
        """
        vectors = [_unit(vector) for vector in await embedder.embed([*_SMALL_TALK, *_OTHERS])]
        return cls(embedder.model, vectors[: len(_SMALL_TALK)], vectors[len(_SMALL_TALK) :])

    @staticmethod
    def possible(text: str) -> bool:
        """Whether a message is short enough."""
        return len(text.strip()) <= _LONGEST

    def is_near(self, vector: _Vector) -> bool:
        """Whether a message is nearer to small talk than to other messages.

        Args:
            vector: its embedding by the same model, of any length (norm).
        """
        return _nearness(vector, self.small_talk) > _nearness(vector, self.others)


def _nearness(vector: _Vector, examples: Sequence[_Vector]) -> float:
    products: list[float] = [sum(map(mul, vector, example)) for example in examples]
    return sum(sorted(products)[-_NEAREST:])


def _unit(vector: _Vector) -> _Vector:
    norm = math.hypot(*vector) or 1.0
    return [value / norm for value in vector]
