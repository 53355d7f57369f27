"""The script: a pure function from a conversation to the model's answer.

In this order: facts the user has stated and memory does not hold yet are stored, one tool call a step; a question is
answered from memory and from what was said, also which part of an interrupted answer was heard; a statement is
confirmed; anything else is echoed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scripted_model import facts
from scripted_model.conversation import Conversation, Said, ToolUse
from scripted_model.facts import Fact
from scripted_model.grammar import HEARD_BEFORE_NOTE, HEARD_BEHIND_NOTE, INTERRUPT_NOTE, PHRASES, WHAT_WAS_HEARD

_BLOCK = "human"
_WHAT_WAS_HEARD = re.compile(WHAT_WAS_HEARD, re.IGNORECASE)
_SUMMARISER = re.compile(r"summar|摘要|总结|概括", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool to be called, with its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model does next: call a tool, or else say ``text``."""

    text: str = ""
    call: ToolCall | None = None
    truncated: bool = False
    """The text is cut off at the length limit."""


def reply(conversation: Conversation, *, must_store: bool = False) -> Reply:
    """The model's next step.

    Args:
        conversation: the request, read; test markers already taken out of what was said.
        must_store: store the newest message as a note if it states no fact (so that a tool call does happen).
    """
    if summarising(conversation):
        return Reply(_summary(conversation))
    text = conversation.newest
    language = facts.language_of(text)
    stated = facts.stated_facts(text) or ([facts.note(text)] if must_store else [])
    held = _held(conversation)
    waiting = _waiting(conversation, stated, held)
    for fact in waiting:
        call = _storing(fact, held, conversation)
        if call and not _tried(call, conversation):
            return Reply(call=call)

    if _WHAT_WAS_HEARD.match(text):
        heard = _heard(conversation)
        return _say(PHRASES["heard" if heard else "nothing heard"][language].format(text=heard), conversation)
    question = facts.asked(text)
    if question:
        found = facts.matching(question, facts.merged([*held, *waiting]))
        return _say(facts.answer(found, language) or PHRASES["unknown"][language], conversation)
    if stated:
        refused = any(use.failed for use in conversation.uses_now)
        phrase = PHRASES["not stored" if refused else "noted"][language]
        return _say(phrase.format(text=facts.answer(stated, language)), conversation)
    return _say(PHRASES["echo"][language].format(text=text), conversation)


def summarising(conversation: Conversation) -> bool:
    """Whether this is no conversation but a request to summarise one."""
    return not conversation.tools and not conversation.blocks and bool(_SUMMARISER.search(conversation.system))


def _heard(conversation: Conversation) -> str:
    """What the newest note about an interrupt says was heard of the answer; empty for nothing, and without a note."""
    said = [event for event in conversation.timeline if isinstance(event, Said)]
    for place in range(len(said) - 1, -1, -1):
        note = said[place]
        if note.role == "assistant" or not re.search(INTERRUPT_NOTE, note.text):
            continue
        beside = place - 1 if re.search(HEARD_BEFORE_NOTE, note.text) else place + 1
        has_words = beside < place or re.search(HEARD_BEHIND_NOTE, note.text)
        is_answer = 0 <= beside < len(said) and said[beside].role == "assistant"
        return said[beside].text.strip() if has_words and is_answer else ""
    return ""


def _held(conversation: Conversation) -> list[Fact]:
    """What memory holds: the block as shown, and this turn's edits (Letta renders the prompt anew once a turn)."""
    shown = facts.stored_facts(conversation.blocks.get(_BLOCK, ""))
    edits = (fact for use in conversation.uses_now if use.succeeded for fact in _written(use))
    return facts.merged([*shown, *edits])


def _waiting(conversation: Conversation, stated: list[Fact], held: list[Fact]) -> list[Fact]:
    """Facts the user has told that no edit has stored since, so that what others removed stays removed.

    The assistant's own words tell nothing; notes (role system) may report what the user said elsewhere.
    """
    waiting: list[Fact] = []
    for event in conversation.timeline:
        if isinstance(event, ToolUse):
            written = _written(event) if event.succeeded else []
            waiting = [fact for fact in waiting if not any(fact.same(done) for done in written)]
        elif event.role != "assistant":
            told = stated if event.text == conversation.newest else facts.stated_facts(event.text)
            waiting = facts.merged([*waiting, *told])
    return [fact for fact in waiting if not any(fact.same(known) for known in held)]


def _written(use: ToolUse) -> list[Fact]:
    return facts.stored_facts(str(use.arguments.get(_TEXT_ARGUMENT.get(use.name, ""), "")))


_TEXT_ARGUMENT = {
    "memory_insert": "new_string",
    "memory_replace": "new_string",
    "core_memory_append": "content",
    "archival_memory_insert": "content",
}


def _storing(fact: Fact, stored: list[Fact], conversation: Conversation) -> ToolCall | None:
    """The call that stores ``fact``, in place of an outdated one where there is one; None without a memory tool."""
    outdated = [] if fact.kind.many else [known for known in stored if known.rivals(fact)]
    block = {"label": _BLOCK}
    if outdated and "memory_replace" in conversation.tools:
        return _call(
            "memory_replace", {**block, "old_string": outdated[-1].line, "new_string": fact.line}, conversation
        )
    if _BLOCK in conversation.blocks:
        for name in ("memory_insert", "core_memory_append"):
            if name in conversation.tools:
                return _call(name, {**block, _TEXT_ARGUMENT[name]: fact.line}, conversation)
    if "archival_memory_insert" in conversation.tools:
        return _call("archival_memory_insert", {"content": fact.line}, conversation)
    return None


def _call(name: str, arguments: dict[str, Any], conversation: Conversation) -> ToolCall:
    """Add what older agent types require of every call."""
    wanted = conversation.tools[name].get("properties", {})
    extra = {"thinking": "As scripted.", "request_heartbeat": name != "send_message"}
    return ToolCall(name, {**arguments, **{key: value for key, value in extra.items() if key in wanted}})


def _tried(call: ToolCall, conversation: Conversation) -> bool:
    """A call that was made in this turn and did not help is not made again."""
    return any(use.name == call.name and _same_arguments(use, call) for use in conversation.uses_now)


def _same_arguments(use: ToolUse, call: ToolCall) -> bool:
    return all(use.arguments.get(key) == value for key, value in call.arguments.items() if key != "thinking")


def _say(text: str, conversation: Conversation) -> Reply:
    """``text`` as content, or through ``send_message`` for agents that may only speak through a tool."""
    if "send_message" in conversation.tools:
        return Reply(call=_call("send_message", {"message": text}, conversation))
    return Reply(text)


def _summary(conversation: Conversation) -> str:
    """A summary keeps what matters here: the facts, as lines that can be read back."""
    lines = [line for said in _said(conversation) for line in said.splitlines() if line.strip()]
    language = facts.language_of("\n".join(lines))
    kept = facts.merged(fact for said in _said(conversation) for fact in facts.stated_facts(said))
    return PHRASES["summary"][language].format(count=len(lines), text="\n".join(fact.line for fact in kept)).strip()


def _said(conversation: Conversation) -> list[str]:
    return [event.text for event in conversation.timeline if isinstance(event, Said)]
