"""Explains failures of Redis, unreachable or refusing, in one sentence with effect and remedy.

A script's error contains the error of its command, so the error code is searched for in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, InvalidResponse, RedisClusterException, RedisError, ResponseError

from shared_utils.connection_failures import connection_failure
from shared_utils.redis.sentinel import SentinelFailure

_UNREACHABLE_CODE: Final = "unreachable"


@dataclass(frozen=True, slots=True)
class RedisFailure:
    """What is wrong with Redis."""

    code: str
    """Redis's own code in small letters, such as ``wrongtype``; ``unreachable``; ``refused`` for any other error."""
    says: str
    """What is wrong."""
    advice: str
    """What to do about it."""
    is_lasting: bool = False
    """Whether the command will fail until somebody changes a key, a right or a setting."""

    @property
    def is_refusal(self) -> bool:
        """Whether Redis answers, and does not do what is asked."""
        return self.code != _UNREACHABLE_CODE

    def __str__(self) -> str:
        return f"{self.says}; {self.advice}"


_REFUSALS: Final[dict[str, tuple[str, str, bool]]] = {
    "WRONGPASS": (
        "Redis refuses the password ({error})",
        (
            "set REDIS_PASSWORD, or the password in REDIS_URL, to the server's password, and REDIS_USERNAME if the "
            "server has ACL users"
        ),
        False,
    ),
    "NOPERM": (
        "Redis forbids the command ({error})",
        "grant the ACL user that right, or set another user in REDIS_USERNAME",
        True,
    ),
    "WRONGTYPE": (
        "Redis has a value of another type under one of this project's keys ({error})",
        "rename or delete that key ('doctor' names it), or give the queue another name in LETTA_REQUESTS",
        True,
    ),
    "OOM": (
        "Redis is full ({error}), so no task can be taken or answered",
        "raise its maxmemory, or remove other data; no task can be processed until it accepts writes",
        False,
    ),
    "LOADING": ("Redis is still loading its data", "wait until it has finished, or see its log", False),
    "READONLY": ("Redis is a read-only replica", "name its primary, or a Sentinel, in REDIS_URL", False),
    "MASTERDOWN": (
        "Redis is a replica without a connection to its primary",
        "start the primary again, or promote this replica",
        False,
    ),
    "NOREPLICAS": (
        "Redis refuses writes because too few replicas are connected ({error})",
        "start the replicas again, or lower min-replicas-to-write",
        False,
    ),
    "MISCONF": (
        "Redis cannot save its data and refuses writes ({error})",
        "check Redis's directory for a full disk or a wrong owner",
        False,
    ),
    "CLUSTERDOWN": (
        "a part of the Redis Cluster is down ({error})",
        "start the node that serves this queue's slot, or its replica",
        False,
    ),
    "TRYAGAIN": ("a slot of the Redis Cluster is being moved", "wait until it has moved", False),
    "BUSY": ("Redis is busy with a script", "end it: redis-cli SCRIPT KILL", False),
}
_DISK_FULL: Final = (
    "Redis's disk is full, so it refuses writes ({error}), so no task can be taken or answered",
    "make room on the disk of Redis's directory",
)
_CODE: Final = re.compile(rf"\b({'|'.join(_REFUSALS)}|NOAUTH)\b")
_NO_LOGIN: Final = re.compile("Authentication required|username-password pair")
"""The rest of such an error in the wrapper of a Cluster's client."""
_PIPELINE: Final = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
"""redis-py's prefix, which quotes the command and thereby user text."""
_SCRIPT: Final = re.compile(r",? (script: [0-9a-f]*,? ?on @user_script|\(call to f_).*$", re.DOTALL)
"""The position in a script, which is useless to an operator."""
_AT: Final = re.compile(r"connecting to (\S*[:/]\S*?)\.?(?:\s|$)")
_MAX_TEXT_LENGTH: Final = 200
_NO_ROOM: Final = re.compile("no space left|disk quota exceeded", re.IGNORECASE)

_ADVICE: Final = {
    "certificate": "add the authority that signed it to REDIS_URL: ?ssl_ca_certs=/path/to/ca.pem",
    "TLS": "begin REDIS_URL with redis:// if the server has no TLS, with rediss:// if it has",
    "name": "correct the host in REDIS_URL, or this machine's DNS; in docker, a service that is down has no name",
    "in time": "check host and port in REDIS_URL, firewalls, and that rediss:// is used only if the server has TLS",
    "socket": "correct the path in REDIS_URL, and the socket's permissions",
}
_ASK_SENTINELS: Final = (
    "set REDIS_SENTINEL_PASSWORD (and REDIS_SENTINEL_USERNAME), if the Sentinels need another password than the "
    "servers they watch"
)
_DEFAULT_ADVICE: Final = "check REDIS_URL, and that Redis runs"


def redis_failure(error: Exception) -> RedisFailure:
    """What is wrong, given one of ``shared_utils.redis.connection.CONNECTION_ERRORS``."""
    if isinstance(error, SentinelFailure):
        inner = redis_failure(error.why)
        advice = _ASK_SENTINELS if inner.code == "wrongpass" else inner.advice
        return replace(inner, says=f"the Sentinels cannot be used: {inner.says}", advice=advice)
    text = _text(error)
    code = _code_of(error)
    if code is not None:
        says, advice, is_lasting = _REFUSALS[code]
        if code == "MISCONF" and _NO_ROOM.search(text):
            says, advice = _DISK_FULL
        return RedisFailure(code.lower(), says.format(error=text), advice, is_lasting)
    if isinstance(error, ResponseError):
        return RedisFailure("refused", f"Redis refuses a command ({text})", "see Redis's log", is_lasting=True)
    return _unreachable(error, text)


def _unreachable(error: Exception, text: str) -> RedisFailure:
    if isinstance(error, InvalidResponse):
        says = f"the server is not Redis ({text})"
        advice = "check host and port in REDIS_URL, and that TLS is used (rediss://) if the server requires it"
    elif isinstance(error, MasterNotFoundError):
        says = f"the Sentinels name no available primary ({text.partition(' : ')[0]})"
        advice = "check the name in REDIS_URL, and that the primary runs"
    elif (why := connection_failure(error)) is not None:
        at = _AT.search(str(error))
        says = f"Redis{f' at {at[1]}' if at else ''} cannot be reached: {why}"
        advice = next((advice for word, advice in _ADVICE.items() if word in why), _DEFAULT_ADVICE)
    else:
        says, advice = f"Redis cannot be reached ({text})", _DEFAULT_ADVICE
    return RedisFailure(_UNREACHABLE_CODE, says, advice)


def explain(error: Exception) -> str:
    """One sentence: what is wrong and what to do.

    Args:
        error: one of ``shared_utils.redis.connection.CONNECTION_ERRORS``.
    """
    return str(redis_failure(error))


def error_text(error: Exception) -> str:
    """One sentence for an error of Redis; of any other error its own text, or the name of its type."""
    if isinstance(error, RedisError | RedisClusterException):
        return explain(error)
    return str(error) or type(error).__name__


def _code_of(error: Exception) -> str | None:
    status = error.status_code if isinstance(error, RedisError) else None
    found = _CODE.search(f"{status or ''} {error}")
    code = found[1] if found else None
    if isinstance(error, AuthenticationError) or code == "NOAUTH" or _NO_LOGIN.search(str(error)):
        return "WRONGPASS"
    return code or ("NOPERM" if "ACL failure" in str(error) else None)


def _text(error: Exception) -> str:
    return _SCRIPT.sub("", _PIPELINE.sub("", str(error))).strip(" .\n")[:_MAX_TEXT_LENGTH] or type(error).__name__
