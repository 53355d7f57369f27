"""Logging in as openGauss asks for it: accounts, password storage, pg_hba's method, locked accounts."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from enum import Enum

from opengauss_double import protocol
from opengauss_double.errors import Refusal
from opengauss_double.protocol import Channel, Message
from opengauss_double.scram import md5_response

FAILURES_BEFORE_LOCK = 10

_MD5, _SHA256, _MD5_SHA256, _SM3 = 5, 10, 11, 13
_SHA256_STORED = 2  # first int32 of code 10's payload
_DENIED = ("28P01", "Invalid username/password,login denied.")


class Stored(Enum):
    """What password_encryption_type 0 to 3 store."""

    MD5 = "md5"
    BOTH = "both"
    SHA256 = "sha256"
    SM3 = "sm3"

    @classmethod
    def of_type(cls, password_encryption_type: int) -> Stored:
        return list(cls)[password_encryption_type]


@dataclass
class Account:
    """A user who may log in; ten wrong passwords in a row lock it."""

    password: str = field(repr=False)
    stored: Stored = Stored.BOTH
    failures: int = 0


@dataclass
class Accounts:
    """Everybody who may log in, and how.

    Attributes:
        hba: the method of the host line in pg_hba.conf, `md5` or `sha256`.
        password_encryption_type: how passwords set from now on are stored: 0 md5, 1 both, 2 sha256, 3 sm3.
        initial_user: the user who may not come from afar.
        treat_as_remote: takes every client for one from afar.
    """

    by_name: dict[str, Account] = field(default_factory=dict)
    hba: str = "md5"
    password_encryption_type: int = 1
    initial_user: str | None = None
    treat_as_remote: bool = False

    def set_password(self, name: str, password: str) -> None:
        """Stores it as `password_encryption_type` says now, and unlocks the account."""
        self.by_name[name] = Account(password, Stored.of_type(self.password_encryption_type))

    async def admit(self, client: Channel, name: str) -> None:
        """Asks for the password. Raises `Refusal`, which is fatal to the connection."""
        if name == self.initial_user and (self.treat_as_remote or not _is_loopback(client.peer)):
            raise Refusal("28000", "Forbid remote connection with initial user.")
        account = self.by_name.get(name)
        if account is not None and account.failures >= FAILURES_BEFORE_LOCK:
            raise Refusal("28000", "The account has been locked.")
        salt = secrets.token_bytes(4)
        code = _MD5 if account is None else self._code(account)
        await client.send(protocol.authentication(code, _payload(code, salt)))
        answer = await client.read()
        if account is None:
            raise Refusal(*_DENIED)
        if code != _MD5 or not _matches(answer, md5_response(name, account.password, salt)):
            account.failures += 1
            raise Refusal(*_DENIED)
        account.failures = 0
        await client.send(protocol.authentication(0))

    def _code(self, account: Account) -> int:
        """What a client of protocol 3.0 is asked."""
        if account.stored is Stored.SM3:
            return _SM3
        if account.stored is not Stored.SHA256:
            return _MD5  # also where pg_hba says sha256: the server goes back for old clients
        return _SHA256 if self.hba == "sha256" else _MD5_SHA256


def _payload(code: int, salt: bytes) -> bytes:
    if code == _MD5:
        return salt
    if code == _MD5_SHA256:
        return secrets.token_hex(32).encode()
    signed = "".join(secrets.token_hex(size) for size in (32, 4, 32))
    return _SHA256_STORED.to_bytes(4, "big") + signed.encode()


def _matches(answer: Message, expected: str) -> bool:
    return answer.kind == b"p" and secrets.compare_digest(answer.body, protocol.text(expected))


def _is_loopback(peer: str) -> bool:
    return bool(peer) and ipaddress.ip_address(peer).is_loopback
