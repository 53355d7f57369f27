"""What the stub Letta says token by token: a text that tells when its tokens were written.

The first and the last word of a sentence are times, in letters, so that a published sentence tells when the model wrote
the tokens around its end. The clock is the machine's monotonic one, which is the same in all processes.
"""

from __future__ import annotations

from typing import Final

_SENTENCE: Final = (" Q{}", " told", " me", " last", " week", " that", " the", " tomatoes", " were", " q{}.")
SENTENCES: Final = 6
TOKENS: Final = (_SENTENCE[0].lstrip(), *(_SENTENCE * SENTENCES)[1:])
"""The tokens of a reply, each a word with the blank before it; the time fills the braces."""

_LETTERS: Final = 10
"""Of a time: enough for the microseconds of four years."""
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
_MICROSECONDS: Final = 1_000_000


def in_letters(seconds: float) -> str:
    """A time as a part of a word."""
    rest = int(seconds * _MICROSECONDS)
    letters = ""
    for _ in range(_LETTERS):
        rest, letter = divmod(rest, len(_ALPHABET))
        letters = _ALPHABET[letter] + letters
    return letters


def began(sentence: str) -> float:
    """When the sentence's first token was written, in seconds."""
    return _seconds(sentence.split(maxsplit=1)[0][1:])


def ended(sentence: str) -> float:
    """When the token with the sentence's end mark was written, in seconds."""
    return _seconds(sentence.rsplit(maxsplit=1)[-1][1:-1])


def _seconds(letters: str) -> float:
    micros = 0
    for letter in letters:
        micros = micros * len(_ALPHABET) + _ALPHABET.index(letter)
    return micros / _MICROSECONDS
