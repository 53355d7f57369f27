"""The client's side of SCRAM-SHA-256, for the double's own login to the upstream."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


class Scram:
    """One exchange: `first()`, then `final(challenge)`. Channel binding is not offered."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._bare = f"n=,r={secrets.token_urlsafe(18)}"

    def first(self) -> bytes:
        return f"n,,{self._bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        """The proof for the server's challenge."""
        words = dict(word.split("=", 1) for word in challenge.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(words["s"]), int(words["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        unproved = f"c=biws,r={words['r']}"
        signed = f"{self._bare},{challenge.decode()},{unproved}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(left ^ right for left, right in zip(client_key, signature, strict=True))
        return f"{unproved},p={base64.b64encode(proof).decode()}".encode()


def md5_response(user: str, password: str, salt: bytes) -> str:
    """What a client answers to code 5."""
    inner = hashlib.md5(f"{password}{user}".encode(), usedforsecurity=False).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
