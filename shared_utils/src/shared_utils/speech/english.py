"""Where a full stop ends no English sentence."""

from __future__ import annotations

import re
from typing import Final


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_TITLES: Final = _words(
    "mr mrs ms dr prof st gen sen rep lt col sgt capt cpt cmdr gov hon rev fr messrs mme mlle mt ft pres supt adm maj",
    "vs v e.g i.e eg ie cf viz al approx ca esp incl excl resp p.s n.b a.k.a",
)
"""Something always follows these."""
_COUNTED: Final = _words(
    "no nos nr fig figs eq eqs vol vols ch chap sec sect art p pp par para ver ed tab ex app",
    "jan feb mar apr jun jul aug sep sept oct nov dec",
)
"""A number follows these, or they end a sentence."""
_LAST: Final = _words("inc ltd co corp llc plc etc jr sr ave blvd rd dept est min max tel ext bros a.m p.m")
"""A sentence goes on behind these in lower case, or ends with them."""
_STARTERS: Final = _words(
    "a an the i it he she we they you this that these those there here who what when where why how which whose",
    "if is are was were do does did can could will would shall should may might must have has had",
    "and but or so yet then now also however therefore meanwhile later after before because since while although",
    "in on at for from with by as to of not no yes well oh please let my your his her its our their",
    "all some many most both each every one two three another other once maybe perhaps today tomorrow yesterday",
)
"""Words that sentences begin with, and names hardly do."""
_LETTERED: Final = _words(
    "plan vitamin option grade type class team group part section step point drive hepatitis answer choice question",
    "column row line room gate terminal building block unit exhibit appendix level version model series size key note",
)
"""A letter names one of these: plan B."""
_LETTERED_BEFORE: Final = re.compile(r"([A-Za-z]+) [A-Z]\Z")
_BEFORE: Final = re.compile(r"(?:[A-Za-z]+\.)*[A-Za-z]+\Z")
_NEXT_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][a-z]+)?")
_INITIALS: Final = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]|[A-Z]")
_LETTER: Final = re.compile(r"[^\W\d_]")
_LONGEST: Final = 24
"""Characters of the longest abbreviation, with room."""


def ends_at_stop(text: str, start: int, stop: int, following: int, end: int, *, complete: bool) -> bool | None:
    """Whether the full stop at ``stop``, with blanks behind it, ends the sentence that begins at ``start``.

    Args:
        text: what is known of the text.
        start: where the sentence begins.
        stop: where the full stop is.
        following: the first character that is no blank behind it and behind its closing marks.
        end: up to here the text may be looked at.
        complete: nothing comes behind ``end``.

    Returns:
        None where the answer depends on what comes behind ``end``.
    """
    after = text[following]
    found = _BEFORE.search(text, max(start, stop - _LONGEST), stop)
    if found is None or (after.islower() and not _is_in_lower_case(text, start, stop)):
        return found is None and not after.islower()
    word = found[0].lower()
    if word in _COUNTED or word in _LAST:
        return not after.isdigit() and not after.islower()
    if word in _TITLES and word != "st":
        return False
    lettered = _LETTERED_BEFORE.search(text, max(start, stop - _LONGEST), stop)
    if found[0] == "I" or (lettered is not None and lettered[1].lower() in _LETTERED):
        return True
    if word == "st" or ((_INITIALS.fullmatch(found[0]) or word == "ph.d") and after.isascii() and after.isalpha()):
        return _starter(text, following, end, complete=complete)
    return True


def ends_before_cjk(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at ``stop`` ends a sentence where a Chinese or Japanese character follows at once."""
    found = _BEFORE.search(text, max(start, stop - _LONGEST), stop)
    if found is None:
        return True
    word = found[0].lower()
    return word not in _TITLES and word not in _COUNTED and "." not in word


def _is_in_lower_case(text: str, start: int, stop: int) -> bool:
    """Whether the sentence begins in lower case, as some people write all of theirs."""
    first = _LETTER.search(text, start, stop)
    return first is not None and first[0].islower()


def _starter(text: str, start: int, end: int, *, complete: bool) -> bool | None:
    """Whether the word at ``start`` begins sentences."""
    word = _NEXT_WORD.match(text, start, end)
    if word is None:
        return True
    if word.end() == end and not complete:
        return None
    following = text[word.end()] if word.end() < len(text) else ""
    return following != "." and re.split(r"['’]", word[0])[0].lower() in _STARTERS
