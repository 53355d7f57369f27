"""Codes that have a new name: replies say the former one beside it, records of the last release are read alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from letta_bridge import errors
from letta_bridge.errors import LIMIT_CODES
from letta_bridge.former_codes import FORMER_CODES, former_code, present_code
from letta_bridge.request_queue.idempotency import KeptReply
from letta_bridge.request_queue.recent_turns import RecentTurns
from shared_utils.errors import ServiceError

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

CODES = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)}
LIMITS = {former for former, present in FORMER_CODES.items() if present in LIMIT_CODES}


@pytest.mark.parametrize("former", FORMER_CODES)
def test_a_former_code_is_no_present_one_and_leads_to_one(former: str) -> None:
    assert former not in CODES
    assert present_code(former) in CODES
    assert former_code(present_code(former)) == former
    assert present_code(present_code(former)) == present_code(former)


async def test_an_error_reply_names_the_former_code_where_the_code_has_a_new_name(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"turns_per_minute": 1, "burst": 1}, letta={"fallback_to_memory": False, "retry_attempts": 0})
    for number in range(2):
        rig.push(f"a{number}")
    await rig.work_off()
    refused = rig.replies()[-1]
    assert (refused["code"], refused["former_code"]) == ("user_rate_limited", "user_rate")
    rig.letta.fail_next(errors.LettaRejected())
    rig.push("b0", user="bo")
    await rig.work_off()
    other = rig.replies()[-1]
    assert other["code"] == "letta_rejected"
    assert "former_code" not in other


@pytest.mark.parametrize("code", sorted(LIMIT_CODES | LIMITS))
def test_a_refusal_that_the_last_release_kept_says_that_nothing_was_sent(code: str) -> None:
    kept = json.dumps({"error": True, "retryable": True, "code": code}).encode()
    reply = KeptReply.read(kept)
    assert reply is not None
    assert (reply.turned_away, reply.may_have_been_sent, reply.may_be_tried_again) == (True, False, True)
    assert reply is not None
    assert reply.reply == kept


def test_tallies_of_both_releases_are_one() -> None:
    recent = RecentTurns.of(
        {
            "turned_away": 5,
            "guard:lane_full": 2,
            "guard:user_queue_full": 1,
            "guard:expired": 2,
            "fallback": 3,
            "cause:turn_fate_unknown": 1,
            "cause:outcome_unknown": 2,
        }
    )
    assert recent.guards == {"user_queue_full": 3, "expired": 2}
    assert recent.causes == {"outcome_unknown": 3}
