"""The model's grammar, as data: kinds of facts and questions, in English and Chinese.

A kind is stored in a memory block as one line (``line``) and recognised there by the same template, so what one
conversation stores another can answer from. Order matters: the first kind that matches a clause wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of fact.

    Attributes:
        name: the key by which questions refer to it.
        many: whether several values hold at once (likes) or a new one replaces the old (name).
        statements: regular expressions of a whole clause, with a group ``value`` and perhaps ``subject``.
        line: the stored form, per language.
        answer: what the user is told, per language.
    """

    name: str
    many: bool
    statements: tuple[str, ...]
    line: dict[Language, str]
    answer: dict[Language, str]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: facts of ``kinds`` (all where empty), about ``subject`` where a pattern names one."""

    patterns: tuple[str, ...]
    kinds: tuple[str, ...] = field(default=())


_EN_THING = r"(?P<subject>[\w -]+?)"
_ZH_THING = r"(?P<subject>[^\s叫是,，。]{1,12}?)"

KINDS: tuple[Kind, ...] = (
    Kind(
        "name",
        many=False,
        statements=(
            r"(?:my name is|my name's|i am called|i'm called|call me) (?P<value>.+)",
            r"(?:我叫|我的名字(?:是|叫)|叫我)(?P<value>.+)",
        ),
        line={"en": "The user's name is {value}.", "zh": "用户叫{value}。"},
        answer={"en": "Your name is {value}.", "zh": "你叫{value}。"},
    ),
    Kind(
        "called",
        many=False,
        statements=(
            rf"my {_EN_THING}(?:'s name is| is called| is named) (?P<value>.+)",
            rf"i have an? {_EN_THING} (?:called|named) (?P<value>.+)",
            rf"我(?:的|家的?){_ZH_THING}(?:的名字)?叫做?(?P<value>.+)",
            rf"我(?:的|家的?){_ZH_THING}的名字是(?P<value>.+)",
            rf"我有一?[只条个匹]{_ZH_THING}[,，]?叫做?(?P<value>.+)",
        ),
        line={"en": "The user's {subject} is called {value}.", "zh": "用户的{subject}叫{value}。"},
        answer={"en": "Your {subject} is called {value}.", "zh": "你的{subject}叫{value}。"},
    ),
    Kind(
        "attribute",
        many=False,
        statements=(
            rf"my {_EN_THING} is (?P<value>.+)",
            rf"我(?:的|(?=最喜欢的)){_ZH_THING}是(?P<value>.+)",
        ),
        line={"en": "The user's {subject} is {value}.", "zh": "用户的{subject}是{value}。"},
        answer={"en": "Your {subject} is {value}.", "zh": "你的{subject}是{value}。"},
    ),
    Kind(
        "home",
        many=False,
        statements=(r"i live in (?P<value>.+)", r"我住在?(?P<value>.+)"),
        line={"en": "The user lives in {value}.", "zh": "用户住在{value}。"},
        answer={"en": "You live in {value}.", "zh": "你住在{value}。"},
    ),
    Kind(
        "dislikes",
        many=True,
        statements=(
            r"i (?:don't like|do not like|dislike|hate) (?P<value>.+)",
            r"我(?:不喜欢|讨厌)(?P<value>.+)",
        ),
        line={"en": "The user dislikes {value}.", "zh": "用户不喜欢{value}。"},
        answer={"en": "You do not like {value}.", "zh": "你不喜欢{value}。"},
    ),
    Kind(
        "likes",
        many=True,
        statements=(
            r"i (?:really |also )?(?:like|love) (?P<value>.+)",
            r"我(?:很|也|还|最|非常|特别)?(?:喜欢|爱)(?P<value>.+)",
        ),
        line={"en": "The user likes {value}.", "zh": "用户喜欢{value}。"},
        answer={"en": "You like {value}.", "zh": "你喜欢{value}。"},
    ),
)

NOTE = Kind(
    "note",
    many=True,
    statements=(),
    line={"en": "The user asked to remember: {value}", "zh": "用户要记住：{value}"},
    answer={"en": "You asked me to remember: {value}.", "zh": "你要我记住：{value}。"},
)
"""What the user asked to remember and no kind above describes."""

QUESTIONS: tuple[Question, ...] = (
    Question(
        (
            r"what(?:'s| is) my name",
            r"what my name is",
            r"my name",
            r"who am i",
            r"我的?(?:名字)?(?:叫|是)(?:什么|啥)(?:名字)?",
            r"我是谁",
            r"我的名字",
        ),
        ("name",),
    ),
    Question((r"where do i live", r"where i live", r"我住在?(?:哪里|哪儿|哪|什么地方)"), ("home",)),
    Question(
        (r"what do(?:n't| not) i like", r"what do i (?:dislike|hate|not like)", r"我(?:不喜欢|讨厌)(?:什么|啥)"),
        ("dislikes",),
    ),
    Question((r"what do i (?:like|love)", r"what i (?:like|love)", r"我喜欢(?:什么|啥|喝什么|吃什么)"), ("likes",)),
    Question(
        (
            rf"what(?:'s| is) my {_EN_THING}(?:'s name| called| named)",
            rf"what(?:'s| is) the name of my {_EN_THING}",
            rf"my {_EN_THING}'s name",
            rf"what(?:'s| is) my {_EN_THING}",
            rf"when(?:'s| is) my {_EN_THING}",
            rf"我(?:的|家的?){_ZH_THING}(?:的名字)?(?:叫|是)(?:什么|啥|哪天|什么时候|谁)(?:名字)?",
            rf"我(?=最喜欢的){_ZH_THING}是(?:什么|啥)",
        ),
        ("called", "attribute"),
    ),
    Question(
        (
            rf"what (?:did i (?:tell you|say)|do you know|have i told you) about my {_EN_THING}",
            rf"(?:关于)?我的{_ZH_THING}[,，]?(?:我)?(?:跟你|对你)?(?:说过|告诉过你|你知道|你记得)(?:些|了)?(?:什么|啥)",
            rf"我(?:跟你|对你)?说过(?:关于)?我的{_ZH_THING}(?:的)?(?:什么|啥)(?:事)?",
        ),
    ),
    Question(
        (
            r"what (?:did i tell you|do you know|do you remember|have i told you)(?: about me)?",
            r"你(?:知道|记得|了解)我(?:的)?(?:什么|些什么|哪些事)",
            r"我(?:都)?(?:告诉过你|跟你说过)(?:什么|些什么)",
            r"你对我(?:了解|知道)(?:多少|什么|些什么)",
        ),
    ),
)

WHAT_WAS_HEARD = r"what did i hear\b.*|我(?:刚才)?(?:都)?听到了(?:什么|啥|哪里|哪儿).*"
"""Asks how much of the answer before was heard, which a note about an interrupt tells the model."""
INTERRUPT_NOTE = r"interrupted you|打断了你"
HEARD_BEFORE_NOTE = r"message before this one|上一条消息"
HEARD_BEHIND_NOTE = r"next message|下一条消息"

REMEMBER = r"(?:please )?remember(?: that|:)? ?|(?:请|帮我)?记(?:住|得|一下)[,:，：]? ?"
COURTESIES = (
    r"(?:hi|hello|hey)(?: there)?[,!:]? +",
    r"by the way[,:]? +",
    r"(?:please |can you |could you )?tell me[,:]? +",
    r"do you (?:still )?(?:know|remember) +",
    r"and +",
    r"(?:你好|您好|嗨)[,!:，！：]? ?",
    r"(?:顺便说一下|另外|对了|请问|告诉我)[,:，：]? ?",
    r"你还?(?:记得|知道)(?=我的?(?:名字|叫|喜欢|住|.{1,8}叫|.{1,8}是))",
)
"""Openings that change nothing about what is said. :data:`REMEMBER` additionally makes a note of what is left."""

TRAILERS = r"(?:\s*(?:吗|呢|呀|啊|哦|please|now|again|,|，))+$"
INTERROGATIVES = r"什么|啥|哪|谁|吗$|\bwhat\b|\bwho\b|\bwhere\b"

SPEAKERS = r"(?:the )?(?:user|human|用户|对方)(?: said| asked)?(?:说|问)?\s*[:：]\s*"
"""How a note about an earlier turn introduces what the user said."""
OTHER_SPEAKERS = (
    r"(?:the )?(?:assistant|agent|ai|bot|model|you|memory-python|answer|reply|助手|回答|回复|你)"
    r"(?: said| answered)?(?:说|回答)?\s*[:：].*"
)
"""How it introduces what somebody else said, which states nothing about the user."""

SAME_SUBJECT: dict[str, str] = {
    "猫": "cat",
    "小猫": "cat",
    "狗": "dog",
    "小狗": "dog",
    "鸟": "bird",
    "生日": "birthday",
    "工作": "job",
    "姐姐": "sister",
    "哥哥": "brother",
    "最喜欢的颜色": "favourite colour",
    "favorite color": "favourite colour",
}
"""Subjects asked about in one language and told in another."""

PHRASES: dict[str, dict[Language, str]] = {
    "noted": {"en": "Noted: {text}", "zh": "记住了：{text}"},
    "not stored": {"en": "I could not store this: {text}", "zh": "没能记住：{text}"},
    "heard": {"en": "You heard only this: {text}", "zh": "你只听到：{text}"},
    "nothing heard": {"en": "I was not interrupted, or you heard nothing.", "zh": "我没有被打断，或者你什么也没听到。"},
    "unknown": {"en": "I do not know that yet.", "zh": "这个我还不知道。"},
    "echo": {"en": "echo: {text}", "zh": "echo: {text}"},
    "summary": {"en": "Summary of {count} lines. {text}", "zh": "{count} 行的摘要。{text}"},
    "and": {"en": " and ", "zh": "、"},
    "space": {"en": " ", "zh": ""},
}
