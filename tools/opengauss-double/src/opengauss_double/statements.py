"""A query string cut into statements, with what can be said of each without asking the upstream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from opengauss_double.errors import Refusal
from opengauss_double.lateral import implicit_lateral
from opengauss_double.profiles import Profile
from opengauss_double.rules import rules
from opengauss_double.tokens import Token, significant, statements, tokenise


@dataclass(frozen=True)
class Statement:
    """One statement: all its tokens, those that mean something, and why openGauss refuses it."""

    tokens: tuple[Token, ...]
    words: tuple[Token, ...]
    refusal: Refusal | None
    refused_only_in_transaction: bool

    @property
    def starts_with(self) -> tuple[str, str]:
        """Its first two words in upper case, empty where there are none."""
        first, second, *_ = (*(token.upper for token in self.words[:2]), "", "")
        return first, second


_KEPT_LENGTH = 20_000  # characters; longer ones are rarely sent twice


def analysed(sql: str, profile: Profile) -> tuple[Statement, ...]:
    """The statements of a query string; drivers send the same ones again and again, so answers are kept."""
    return _kept(sql, profile) if len(sql) <= _KEPT_LENGTH else _analysed(sql, profile)


@lru_cache(maxsize=2000)
def _kept(sql: str, profile: Profile) -> tuple[Statement, ...]:
    return _analysed(sql, profile)


def _analysed(sql: str, profile: Profile) -> tuple[Statement, ...]:
    return tuple(_statement(tuple(piece), profile) for piece in statements(tokenise(sql)))


def syntax_refusal(pieces: tuple[Statement, ...]) -> Refusal | None:
    """The first syntax error: one anywhere means that nothing of the query string runs."""
    return next((piece.refusal for piece in pieces if piece.refusal and piece.refusal.is_syntax), None)


def _statement(tokens: tuple[Token, ...], profile: Profile) -> Statement:
    words = tuple(significant(tokens))
    present = {token.upper for token in words}
    for rule in rules(profile):
        refusal = rule.refusal(words, present)
        if refusal:
            return Statement(tokens, words, refusal, rule.only_in_transaction)
    return Statement(tokens, words, implicit_lateral(words), refused_only_in_transaction=False)
