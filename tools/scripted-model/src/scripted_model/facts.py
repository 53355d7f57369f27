"""Reads facts and questions out of plain text, with the patterns of :mod:`scripted_model.grammar`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scripted_model import grammar
from scripted_model.grammar import Kind, Language

_CJK = re.compile(r"[\u3400-\u9fff]")
_SENTENCE = re.compile(r"[^。!?;！？；\n]+?(?:[。!?;！？；\n]|(?<!\bSt)(?<!\bDr)(?<!\bMr)(?<!\bMrs)\.(?=\s|$)|$)+")
_CLAUSE = re.compile(r"，|,(?=我)|(?:, ?(?:and )?| and )(?=(?:i|my) )", re.IGNORECASE)
_EDGES = " \t\r\n\"'“”‘’「」『』()（）。.!！;；,，"


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def _reader(template: str) -> re.Pattern[str]:
    """The expression that reads back a line written with ``template``."""
    pattern = re.escape(template).replace(r"\{subject\}", "(?P<subject>.+?)").replace(r"\{value\}", "(?P<value>.+)")
    return re.compile(pattern, re.IGNORECASE)


_ALL_KINDS = (*grammar.KINDS, grammar.NOTE)
_KINDS = {kind.name: kind for kind in _ALL_KINDS}
_STATEMENTS = [(kind, pattern) for kind in grammar.KINDS for pattern in _compiled(kind.statements)]
_LINES = [(kind, _reader(template)) for kind in _ALL_KINDS for template in kind.line.values()]
_QUESTIONS = [(question, pattern) for question in grammar.QUESTIONS for pattern in _compiled(question.patterns)]
_COURTESIES = re.compile("|".join(grammar.COURTESIES), re.IGNORECASE)
_REMEMBER = re.compile(grammar.REMEMBER, re.IGNORECASE)
_TRAILERS = re.compile(grammar.TRAILERS, re.IGNORECASE)
_INTERROGATIVES = re.compile(grammar.INTERROGATIVES, re.IGNORECASE)
_SPEAKERS = re.compile(grammar.SPEAKERS, re.IGNORECASE)
_OTHER_SPEAKERS = re.compile(grammar.OTHER_SPEAKERS, re.IGNORECASE)
_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)、])\s+")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something the user said about themselves; ``subject`` is empty unless it is about a thing of theirs."""

    kind: Kind
    value: str
    subject: str = ""
    language: Language = "en"

    @property
    def line(self) -> str:
        """How it is stored in a memory block."""
        return self.kind.line[self.language].format(value=self.value, subject=self.subject)

    def same(self, other: Fact) -> bool:
        """Whether both say the same, in whichever language."""
        return self.rivals(other) and self.value.casefold() == other.value.casefold()

    def rivals(self, other: Fact) -> bool:
        """Whether both speak of the same thing, so that of a single-valued kind only one can hold."""
        return self.kind is other.kind and _canonical(self.subject) == _canonical(other.subject)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question the grammar knows: facts of ``kinds`` (all where empty), about ``subject`` where not empty."""

    kinds: tuple[str, ...]
    subject: str


def language_of(text: str) -> Language:
    return "zh" if _CJK.search(text) else "en"


def stated_facts(text: str) -> list[Fact]:
    """The facts a message of the user states, in order; also those of a note that reports what the user said."""
    return [fact for sentence in _sentences(text) for fact in _facts_in_sentence(sentence)]


def note(text: str) -> Fact:
    """``text`` itself as a fact."""
    return Fact(grammar.NOTE, text.strip(_EDGES), language=language_of(text))


def stored_facts(block: str) -> list[Fact]:
    """The facts in a memory block; lines the model did not write are passed over."""
    return [fact for line in block.splitlines() if (fact := _read_line(line.strip()))]


def asked(text: str) -> Asked | None:
    """The first known question in ``text``."""
    for sentence in _sentences(text):
        bare, _ = _bare(sentence)
        if question := _question(bare):
            return question
    return None


def answer(facts: list[Fact], language: Language) -> str:
    """The facts as told to the user; values of one kind and subject share a sentence."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        groups.setdefault((fact.kind.name, _canonical(fact.subject)), []).append(fact)
    joint = grammar.PHRASES["and"][language]
    told = (
        group[0].kind.answer[language].format(value=joint.join(f.value for f in group), subject=group[0].subject)
        for group in groups.values()
    )
    return grammar.PHRASES["space"][language].join(told)


def matching(question: Asked, facts: list[Fact]) -> list[Fact]:
    """The facts that answer ``question``; a question about a thing is also answered by what mentions it."""
    subject = _canonical(question.subject)

    def fits(fact: Fact) -> bool:
        if question.kinds:
            return fact.kind.name in question.kinds and (not subject or _canonical(fact.subject) == subject)
        return (
            not subject or _canonical(fact.subject) == subject or question.subject.casefold() in fact.value.casefold()
        )

    return [fact for fact in facts if fits(fact)]


def merged(facts: Iterable[Fact]) -> list[Fact]:
    """What holds after hearing ``facts`` in order: no repetition, and the newest of a single-valued kind."""
    held: list[Fact] = []
    for fact in facts:
        if any(fact.same(known) for known in held):
            continue
        if not fact.kind.many:
            held = [known for known in held if not fact.rivals(known)]
        held.append(fact)
    return held


def _canonical(subject: str) -> str:
    plain = subject.casefold().strip()
    return grammar.SAME_SUBJECT.get(plain, plain)


def _lines(text: str) -> Iterator[str]:
    """The lines of a text; of a line that is a JSON object, those of the texts that it quotes."""
    for line in text.splitlines():
        try:
            quoted = json.loads(line) if line.startswith("{") else None
        except ValueError:
            quoted = None
        if not isinstance(quoted, dict):
            yield line
            continue
        for name, value in quoted.items():
            if isinstance(value, list):
                yield from (inner for item in value for inner in str(item).splitlines())
            else:
                said = f"{name}: {value}"
                yield from (
                    said if _SPEAKERS.match(said) or _OTHER_SPEAKERS.fullmatch(said) else str(value)
                ).splitlines()


def _sentences(text: str) -> Iterator[str]:
    for line in _lines(text):
        said = _BULLET.sub("", line, count=1).strip()
        if _OTHER_SPEAKERS.fullmatch(said):
            continue
        said = _SPEAKERS.sub("", said, count=1) if _SPEAKERS.match(said) else said
        for match in _SENTENCE.finditer(said):
            if sentence := match.group().strip():
                yield sentence


def _bare(sentence: str) -> tuple[str, bool]:
    """``sentence`` without courtesies and punctuation, and whether it asked to be remembered."""
    text, remember, before = sentence.strip(_EDGES + "?？"), False, ""
    while text != before:
        before = text
        if opening := _COURTESIES.match(text):
            text = text[opening.end() :]
        if opening := _REMEMBER.match(text):
            text, remember = text[opening.end() :], True
    return _TRAILERS.sub("", text).strip(_EDGES + "?？"), remember


def _question(bare: str) -> Asked | None:
    for question, pattern in _QUESTIONS:
        if match := pattern.fullmatch(bare):
            return Asked(question.kinds, (match.groupdict().get("subject") or "").strip())
    return None


def _facts_in_sentence(sentence: str) -> list[Fact]:
    bare, remember = _bare(sentence)
    if not bare or sentence.rstrip(_EDGES).endswith(("?", "？")) or _question(bare):
        return []
    if fact := _read_line(sentence):
        return [fact]
    found = [fact for clause in _CLAUSE.split(bare) if (fact := _statement(clause))]
    if not found and remember:
        return [note(bare)]
    return found


def _statement(clause: str) -> Fact | None:
    bare, _ = _bare(clause)
    for kind, pattern in _STATEMENTS:
        match = pattern.fullmatch(bare)
        if match and not _INTERROGATIVES.search(match["value"]):
            return _fact(kind, match)
    return None


def _read_line(line: str) -> Fact | None:
    for kind, pattern in _LINES:
        if match := pattern.fullmatch(line):
            return _fact(kind, match)
    return None


def _fact(kind: Kind, match: re.Match[str]) -> Fact:
    subject = (match.groupdict().get("subject") or "").strip()
    return Fact(kind, match["value"].strip(_EDGES), subject, language_of(match.group()))
