"""The identity of a task: its idempotency key, and how a task that is pushed again inherits it.

The key identifies the *task* (its number in the queue). The producer's id does not, because producers reuse ids. A
stored reply contains the key and a digest of the task's content. Within ``queue.reply_ttl_seconds`` the same id with
the same content is therefore the same task, which inherits the key; the same id with other content is refused; after
that time, a reused id is a new task. A reply from which a task inherits its key is kept for as long as the task may be
handed out again.

These added members of a stored reply expire with it, and are erased with it. Replies of the previous release lack them;
such a task was sent under its producer's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic_core import to_json

from letta_bridge.errors import LIMIT_CODES
from letta_bridge.former_codes import present_code
from shared_utils.contracts.messages import Task, json_object

CLOCK_TOLERANCE_SECONDS: Final = 600.0
"""What the clocks of Redis, Letta and its database may differ by."""

_KEY_MEMBER: Final = "idempotency_key"
_DIGEST_MEMBER: Final = "content_digest"
_TAKEN_AT_MEMBER: Final = "taken_at"
_MARK_BEGINS: Final = f',"{_KEY_MEMBER}":'.encode()
"""Cannot occur within a JSON text, where a quotation mark is escaped."""
_LEGACY_SPAN_SECONDS: Final = 900.0
"""How long before its reply a task of the previous release can have been sent: all hand-outs of one take less."""


@dataclass(slots=True)  # not frozen, as what is made for every turn: see Turn
class Identity:
    """The identity under which a task may have been sent to Letta.

    Attributes:
        key: the idempotency key, the same for every hand-out and every repeated push.
        taken_at: seconds since 1970 by Redis's clock; no bridge sent it before.
        digest: of the task's content; None if the task is unreadable.
    """

    key: str
    taken_at: float
    digest: str | None

    def fields(self) -> dict[str, str | float]:
        """The members added to a stored reply and to a dead letter; the key comes first."""
        fields: dict[str, str | float] = {_KEY_MEMBER: self.key, _TAKEN_AT_MEMBER: self.taken_at}
        if self.digest is not None:
            fields[_DIGEST_MEMBER] = self.digest
        return fields

    def mark(self) -> bytes:
        """The same as JSON members."""
        return to_json(self.fields())[1:-1]


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A reply stored by task id, with the identity of its task."""

    reply: bytes
    """As it was published."""
    mark: bytes
    """The members added to it by :meth:`Identity.mark`; empty in a reply of the previous release."""
    content: dict[str, Any]

    @classmethod
    def read(cls, kept: bytes) -> Self | None:
        """Parse the value under the task's id; None if it is not a reply, so that the id counts as unused."""
        content = json_object(kept)
        if not content:
            return None
        place = kept.rfind(_MARK_BEGINS) if _KEY_MEMBER in content else -1
        if place < 0:
            return cls(kept, b"", content)
        return cls(kept[:place] + b"}", kept[place + 1 : -1], content)

    @property
    def may_be_tried_again(self) -> bool:
        """Whether it is a retryable error."""
        return bool(self.content.get("error") and self.content.get("retryable"))

    @property
    def turned_away(self) -> bool:
        """Whether it is the refusal of a limit, which says nothing about other tasks with this id."""
        return bool(self.content.get("error")) and _KEY_MEMBER not in self.content and not self.may_have_been_sent

    @property
    def may_have_been_sent(self) -> bool:
        """Whether Letta may have the turn. After a limit's refusal, it does not."""
        return present_code(str(self.content.get("code"))) not in LIMIT_CODES

    def is_of(self, task: Task) -> bool:
        """Whether its task had the same content; assumed of a reply of the previous release, which has no digest."""
        if _KEY_MEMBER not in self.content:
            return True
        return bool(self.content.get(_DIGEST_MEMBER) == content_digest(task))

    def inherited(self, identity: Identity) -> Identity:
        """The identity of a task that is pushed again: the earlier task's, as far as the reply contains it."""
        key, taken = self.content.get(_KEY_MEMBER), self.content.get(_TAKEN_AT_MEMBER)
        if isinstance(taken, int | float):
            taken_at = float(taken)
        else:
            settled = self.content.get("timestamp")
            taken_at = identity.taken_at
            if isinstance(settled, int | float):
                taken_at = min(taken_at, float(settled) - _LEGACY_SPAN_SECONDS)
        return Identity(key if isinstance(key, str) and key else identity.key, taken_at, identity.digest)


def marked(reply: bytes, letter: Mapping[str, Any]) -> bytes:
    """A reply to be stored, with the identity of its task from a dead letter.

    A letter of the previous release contains only the time of its dead-lettering: its task was sent under its
    producer's id, earlier by at most the time of all its hand-outs. An unreadable task was never sent.
    """
    buried = letter.get("time")
    members = {name: letter[name] for name in (_KEY_MEMBER, _TAKEN_AT_MEMBER, _DIGEST_MEMBER) if name in letter}
    if len(members) < len((_KEY_MEMBER, _TAKEN_AT_MEMBER, _DIGEST_MEMBER)):
        earliest = float(buried) - _LEGACY_SPAN_SECONDS if isinstance(buried, int | float) else None
        members = {} if earliest is None else {_TAKEN_AT_MEMBER: earliest}
    return reply[:-1] + b"," + to_json(members)[1:] if members else reply


def content_digest(task: Task) -> str:
    """A digest of the task's parsed content, not of its bytes, which may differ between producers.

    Returns:
        SHA-256 in hexadecimal digits.
    """
    said = [task.type, task.content, task.input_file or "", task.meta.persona or ""]
    return hashlib.sha256(to_json(said)).hexdigest()
