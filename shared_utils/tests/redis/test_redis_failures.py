"""What an operator reads of each way in which Redis is of no use."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared_utils.redis.failures import error_text, explain, redis_failure
from shared_utils.redis.sentinel import SentinelFailure

SCRIPT = " script: 5f0c, on @user_script:27."


@pytest.mark.parametrize(
    ("error", "code", "says", "lasting"),
    [
        (AuthenticationError("Authentication required."), "wrongpass", "Redis refuses the password", False),
        (NoPermissionError("User x has no permissions", status_code="NOPERM"), "noperm", "Redis forbids", True),
        (ResponseError("ACL failure in script: User x may not run 'zadd'" + SCRIPT), "noperm", "User x", True),
        (
            ResponseError("WRONGTYPE Operation against a key" + SCRIPT),
            "wrongtype",
            "a value of another type under",
            True,
        ),
        (ResponseError("WRONGTYPE the key q is no list"), "wrongtype", "the key q is no list", True),
        (OutOfMemoryError("command not allowed", status_code="OOM"), "oom", "Redis is full", False),
        (ResponseError("Error running script (call to f_5f): @user_script:27: OOM x"), "oom", "is full", False),
        (BusyLoadingError("Redis is loading", status_code="LOADING"), "loading", "still loading", False),
        (ReadOnlyError("You can't write", status_code="READONLY"), "readonly", "a read-only replica", False),
        (ResponseError("MISCONF Redis is configured to save"), "misconf", "cannot save its data", False),
        (
            ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
            "misconf",
            "disk is full",
            False,
        ),
        (ClusterDownError("CLUSTERDOWN The cluster is down"), "clusterdown", "a part of the Redis", False),
        (ResponseError("BUSY Redis is busy running a script"), "busy", "with a script", False),
        (ResponseError("unknown command 'BLMOVE'"), "refused", "Redis refuses a command", True),
        (InvalidResponse("Protocol Error"), "unreachable", "the server is not Redis", False),
        (RedisTimeoutError("Timeout reading from 127.0.0.1:1"), "unreachable", "does not answer in time", False),
        (TimeoutError(), "unreachable", "does not answer in time", False),
        (ConnectionRefusedError(111, "Connection refused"), "unreachable", "no program listens there", False),
        (RedisConnectionError("Error 111 connecting to h.x:1. Connection refused."), "unreachable", "at h.x:1", False),
        (RedisClusterException("no node: invalid username-password pair"), "wrongpass", "refuses the", False),
        (MasterNotFoundError("No master found for 'x' : <Redis 1>"), "unreachable", "found for 'x')", False),
        (SentinelFailure(AuthenticationError("no")), "wrongpass", "the Sentinels cannot be used: Redis", False),
        (RedisConnectionError(""), "unreachable", "Redis cannot be reached (ConnectionError)", False),
    ],
    ids=repr,
)
def test_each_failure_is_one_sentence_with_advice(error: Any, code: str, says: str, lasting: bool) -> None:
    trouble = redis_failure(error)
    assert (trouble.code, trouble.is_lasting) == (code, lasting)
    assert trouble.is_refusal == (code != "unreachable")
    assert says in trouble.says
    assert trouble.advice
    sentence = explain(error)
    assert sentence == f"{trouble.says}; {trouble.advice}"
    assert "\n" not in sentence
    assert "user_script" not in sentence


def test_a_command_that_a_pipeline_quotes_is_not_repeated() -> None:
    error = ResponseError('Command # 1 (LPUSH q {"content":"my (secret) words"}) of pipeline caused error: WRONGTYPE x')
    assert "secret" not in explain(error)
    assert redis_failure(error).code == "wrongtype"


def test_an_error_that_is_not_of_redis_is_reported_in_its_own_words() -> None:
    assert error_text(OutOfMemoryError("command not allowed", status_code="OOM")).startswith("Redis is full")
    assert error_text(RuntimeError("the journal is closed")) == "the journal is closed"
    assert error_text(TimeoutError()) == "TimeoutError"
