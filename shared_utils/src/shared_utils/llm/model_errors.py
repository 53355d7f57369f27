"""Classifies refusals of OpenAI-compatible model servers of any provider.

The chat model, the embedding model and Letta, which quotes its model's errors, are read here alike. Providers agree on
little but the HTTP status, so the words decide first. What is quoted of them is for operators: one line, bounded, and
nothing that a user wrote.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Cause(StrEnum):
    """Why a model server refused a request."""

    CREDENTIALS = "model_credentials"
    CREDITS = "insufficient_credits"
    FORBIDDEN = "forbidden"
    OVERFLOW = "context_overflow"
    UNKNOWN_MODEL = "unknown_model"
    NO_TOOLS = "no_tool_support"
    CONTENT = "content_refused"
    PARAMETER = "unsupported_parameter"
    BAD_REQUEST = "bad_request"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later without a fix."""
        return self in {Cause.RATE_LIMITED, Cause.UNAVAILABLE}


MEANINGS: Final[Mapping[Cause, str]] = {
    Cause.CREDENTIALS: "the provider refuses the key",
    Cause.CREDITS: "the provider demands payment, or a quota is used up",
    Cause.FORBIDDEN: "the provider forbids this request to the key's account",
    Cause.OVERFLOW: "the request does not fit the model's context window",
    Cause.UNKNOWN_MODEL: "the provider does not know the model",
    Cause.NO_TOOLS: "the model cannot call tools",
    Cause.CONTENT: "the provider's content filter refuses the conversation",
    Cause.PARAMETER: "the model does not support a parameter of the request",
    Cause.BAD_REQUEST: "the provider rejects the request as invalid",
    Cause.RATE_LIMITED: "the provider limits the rate",
    Cause.UNAVAILABLE: "the provider is overloaded or reports an error",
}
"""A clause for people; the subject is the provider or the model."""

_WORDS: Final[Mapping[Cause, re.Pattern[str]]] = {
    cause: re.compile(words, re.IGNORECASE | re.VERBOSE)
    for cause, words in {
        Cause.CREDITS: r"""insufficient[_ ](quota|credits?|balance|funds) | exceeded\ your\ current\ quota
            | exceeded_current_quota | free\ tier.{0,40}exhausted | free_?tier_?only | (套餐|服务).{0,10}到期
            | requires\ more\ credits | can\ only\ afford | billing.{0,40}hard\ limit | billing_(hard_limit|not_active)
            | exceeded\ your\ budget | credit\ balance\ is\ too\ low | out\ of\ credits | arrear | 余额不足 | 欠费""",
        Cause.OVERFLOW: r"""context_length_exceeded | context_window_exceeded | exceed_context_size
            | exceeds?\ (the\ )?(available\ |model'?s?\ |maximum\ )*context | maximum\ (context|prompt)\ length
            | (longer|greater)\ than\ the\ (maximum\ |model'?s?\ |context\ ){1,3}length
            | context\ (length|size|window)\ (is\ |was\ |has\ been\ |of\ [\d,]+\ (is\ )?)?(exceeded|too\ (small|short))
            | context\ overflows? | prompt\ is\ too\ long | input\ is\ too\ long | prompt\ too\ long | too\ many\ tokens
            | input\ length.{0,60}exceed | exceeds?\ the\ maximum\ (number\ of\ tokens|allowed\ input\ length|length)
            | input\ tokens?\ (count\ )?.{0,40}exceeds? | reduce\ the\ length\ of\ (the|your)
            | (larger|more)\ than\ the\ max(imum)?\ (input|context) | exceeded\ model\ token\ limit
            | range\ of\ input\ length\ should\ be | must\ have\ less\ than\ \d+\ tokens
            | tokens\ to\ keep\ from\ the\ initial\ prompt | inputs`?\ (tokens|must)\ .{0,60}(<=|less\ than)
            | input\ \(\d+\ tokens\)\ is\ too\ large | 超长 | (上下文|输入).{0,10}(超过|超出|过长)""",
        Cause.NO_TOOLS: r"""(does|do)\ not\ support\ (tool|function) | no\ endpoints\ found\ that\ support\ tool
            | (tools?|tool_choice|function\ calling)\b.{0,40}(is|are)\ not\ supported
            | requires\ --(jinja|enable-auto-tool-choice)""",
        Cause.CONTENT: r"""content[_ ](filter|policy|management) | flagged | moderation | responsible\ ?ai
            | data_inspection | safety\ (system|filter|setting) | prohibited_content
            | sensitive\ (words?|content) | 敏感""",
        Cause.UNKNOWN_MODEL: r"""model_not_found | unknown_model | no\ such\ model | not\ a\ valid\ model
            | invalid\ model\ name | 模型不存在
            | model\b.{0,120}\b(does\ not\ exist|not\ found|is\ not\ available|not\ exist)""",
        Cause.CREDENTIALS: r"""invalid[_ ](api[_ ]?)key | incorrect\ api\ key
            | api[_ ]?key\ (not\ valid|is\ invalid|expired) | (expired|revoked|missing|no)\ api\ key
            | invalid_authentication | authentication_error | unauthorized | invalid\ (bearer\ )?token
            | token\ (has\ )?expired""",
        Cause.PARAMETER: r"""unsupported[_ ](parameter|value) | extra\ (inputs|fields)\ (are\ )?not\ permitted
            | (parameter|argument)s?\b.{0,60}not\ (supported|permitted|allowed)
            | unrecognized\ (request\ )?(argument|parameter) | unknown\ (parameter|field|argument|name)
            | does\ not\ support.{0,40}(parameter|temperature|max_)""",
    }.items()
}  # fmt: skip
"""Tried in this order: an overflow's message often names a parameter, and a quota has the status of a rate limit."""

_OF_STATUS: Final[Mapping[int, Cause]] = {
    401: Cause.CREDENTIALS,
    402: Cause.CREDITS,
    403: Cause.FORBIDDEN,
    404: Cause.UNKNOWN_MODEL,
    408: Cause.UNAVAILABLE,
    409: Cause.UNAVAILABLE,
    413: Cause.OVERFLOW,
    425: Cause.UNAVAILABLE,
    429: Cause.RATE_LIMITED,
}
_UNAMBIGUOUS_STATUSES: Final = frozenset({401, 402})
"""Statuses whose words cannot mean anything else."""
_SERVER_ERROR: Final = 500
_DESPITE_SERVER_ERROR: Final = frozenset({Cause.CREDITS, Cause.OVERFLOW, Cause.NO_TOOLS})
"""Refusals that some servers send with a status of 500 or more; other messages there concern the server itself."""
DEMANDED: Final[Mapping[str, bool]] = {"enable_thinking": False}
"""Parameters that some models demand, with their values; Qwen's models, for example, think only in streams."""
_PARAMETERS: Final = (
    *("max_completion_tokens", "max_tokens", "temperature", "encoding_format", "dimensions"),
    *("parallel_tool_calls", "reasoning_effort", "response_format", "verbosity", *DEMANDED),
)
"""Parameters of requests from here, and of Letta's, that some model refuses, and those that some model demands."""

_QUOTED_CHARACTERS: Final = 200
_READ_CHARACTERS: Final = 16_384
_INPUT: Final = re.compile(
    r"""['"](?:input|prompt|messages|content)['"]\s*: | \b(?:input_value|input|prompt|messages|content)\s*=""",
    re.IGNORECASE | re.VERBOSE,
)
"""Where a validator begins to quote its input."""
_QUOTATION: Final = re.compile(r"""(?<!\w)(?:'([^'\n]*)'|"([^"\n]*)"|`([^`\n]*)`|“([^”\n]*)”|‘([^’\n]*)’)(?!\w)""")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][\w.:/-]{0,99}", re.ASCII)
_SECRET: Final = re.compile(r"\b(?:sk|pk|key|gsk|hf|xai|nvapi|AIza)[-_]?[\w*-]{6,}", re.ASCII)
_HIDDEN_WINDOW: Final = 12
_SHORTEST_HIDDEN: Final = 3
"""Characters; a shorter text stands in many words by chance."""
_READ_WORDS: Final = 2 * _QUOTED_CHARACTERS
_KEYS_OF_WORDS: Final = ("message", "msg", "detail", "error_msg", "error")
_KEYS_OF_ERRORS: Final = ("error", "errors", "detail", "message", "metadata")
"""Keys below which an error, a list of errors, or a router's details of one may be."""
_KEYS_OF_PARAMETERS: Final = ("param", "loc")
_KEYS_OF_CODES: Final = ("code", "type", "error_type", "status", *_KEYS_OF_PARAMETERS)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A classified refusal."""

    cause: Cause
    words: str
    """The provider's own, for operators; empty where there are none that can be shown."""
    parameters: frozenset[str] = frozenset()
    """Of the request, those that an ``unsupported_parameter`` is about."""

    @property
    def sentence(self) -> str:
        """Cause and words as a clause: ``the provider refuses the key (Incorrect API key provided)``."""
        return f"{MEANINGS[self.cause]} ({self.words})" if self.words else MEANINGS[self.cause]


def read_refusal(status: int, body: str | bytes, *, hidden: Collection[str] = ()) -> Refusal:
    """Classify an answer that is not a success.

    Args:
        status: the HTTP status.
        body: the answer's body, of any content: JSON, a Python client's rendering of it, HTML, nothing.
        hidden: texts of the request, such as what the user said and the key, of which nothing may be quoted.
    """
    text = (body.decode(errors="replace") if isinstance(body, bytes) else body)[:_READ_CHARACTERS]
    error = _embedded(text)
    message = next(_texts(error, _KEYS_OF_WORDS), "") if error is not None else _plain(text)
    codes = " ".join(_texts(error, _KEYS_OF_CODES)) if error is not None else ""
    cause = _cause(status, f"{message} {codes}")
    parameters = frozenset[str]()
    if cause in {Cause.PARAMETER, Cause.BAD_REQUEST}:
        parameters = _parameters(f"{message} {codes}", error)
        cause = Cause.PARAMETER if parameters else cause
    words = "" if cause is Cause.CONTENT else shown(message, hidden)
    return Refusal(cause, words or _code(error), parameters)


def shown(message: str, hidden: Collection[str] = ()) -> str:
    """A provider's message as one bounded line, without quotations, keys, and texts in ``hidden``."""
    message = _INPUT.split(" ".join(message.split()), maxsplit=1)[0]
    message = _SECRET.sub("…", _QUOTATION.sub(_unquoted, message))
    message = re.split(r"[\[{]", message, maxsplit=1)[0][:_READ_WORDS]
    message = _without(message, hidden)
    return re.sub("…+", "…", message)[:_QUOTED_CHARACTERS].strip(" -:.;,")


def _without(message: str, hidden: Collection[str]) -> str:
    """The message with ``…`` for each stretch of twelve or more characters, or whole short text, that is hidden."""
    covered = [False] * len(message)
    stretches = {message[start : start + _HIDDEN_WINDOW] for start in range(len(message) - _HIDDEN_WINDOW + 1)}
    found = {stretch for stretch in stretches if any(stretch in text for text in hidden)}
    found |= {text for text in hidden if _SHORTEST_HIDDEN <= len(text) < _HIDDEN_WINDOW}
    for stretch in found:
        for place in re.finditer(f"(?={re.escape(stretch)})", message):
            covered[place.start() : place.start() + len(stretch)] = [True] * len(stretch)
    return "".join("…" if hide else letter for letter, hide in zip(message, covered, strict=True))


def _cause(status: int, words: str) -> Cause:
    if status in _UNAMBIGUOUS_STATUSES:
        return _OF_STATUS[status]
    for cause, pattern in _WORDS.items():
        if (status < _SERVER_ERROR or cause in _DESPITE_SERVER_ERROR) and pattern.search(words):
            return cause
    return _OF_STATUS.get(status, Cause.UNAVAILABLE if status >= _SERVER_ERROR else Cause.BAD_REQUEST)


def _parameters(words: str, error: Any) -> frozenset[str]:
    """The parameter a refusal is about.

    The field made for it decides, else the words: these may name another one to use in its place, so the first one
    named counts.
    """
    fields = [field for field in _texts(error, _KEYS_OF_PARAMETERS) if field in _PARAMETERS]
    if fields:
        return frozenset(fields[:1])
    places = {name: found.start() for name in _PARAMETERS if (found := re.search(rf"\b{name}\b", words)) is not None}
    return frozenset({min(places, key=lambda name: places[name])}) if places else frozenset()


def _embedded(text: str) -> Any:
    """The JSON document in a text, or the Python rendering of one; None where there is none."""
    for opening, closing in (("{", "}"), ("[", "]")):
        start, end = text.find(opening), text.rfind(closing)
        if start < 0 or end < start:
            continue
        document = text[start : end + 1]
        for read in (json.loads, ast.literal_eval):
            try:
                return read(document)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    return None


def _texts(value: Any, keys: Collection[str], depth: int = 6) -> Iterator[str]:
    """The texts under these keys, those further out and of earlier keys first."""
    if depth == 0:
        return
    if isinstance(value, dict):
        inner = [value[key] for key in _KEYS_OF_ERRORS if isinstance(value.get(key), dict | list)]
        if isinstance(value.get("raw"), str):  # where a router quotes the provider behind it
            inner.append(_embedded(value["raw"]))
        for part in inner:
            yield from _texts(part, keys, depth - 1)
        for key in keys:
            if key == "loc" and isinstance(value.get(key), list):  # where a validator found the fault: a path
                yield from (part for part in value[key] if isinstance(part, str))
            elif isinstance(value.get(key), str | int) and value[key] != "":
                yield str(value[key])
    elif isinstance(value, list):
        for part in value[:4]:
            yield from _texts(part, keys, depth - 1)


def _code(error: Any) -> str:
    return next((code for code in _texts(error, _KEYS_OF_CODES) if _IDENTIFIER.fullmatch(code)), "")


def _plain(text: str) -> str:
    return "" if "<" in text[:100] else text


def _unquoted(found: re.Match[str]) -> str:
    inside = next(part for part in found.groups() if part is not None)
    return found[0] if _IDENTIFIER.fullmatch(inside) else "…"
