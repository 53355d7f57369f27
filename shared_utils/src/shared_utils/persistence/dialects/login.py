"""Explains failed logins to operators; openGauss gives stock clients only obscure SASL errors."""

from __future__ import annotations

from typing import Final

from shared_utils.persistence.errors import LoginRefused

_SHA256_ONLY: Final = (
    "the openGauss account {user} has a password only in the sha256 form, which PostgreSQL's clients cannot use; as "
    'its administrator run: gs_guc reload -D $PGDATA -c "password_encryption_type=1", then set the password again '
    "(ALTER USER \"{user}\" PASSWORD '...'; old hashes are not converted), and allow it in pg_hba.conf: "
    'gs_guc reload -D $PGDATA -h "host all all 0.0.0.0/0 md5"'
)
_SM3_ONLY: Final = _SHA256_ONLY.replace("the sha256 form", "the SM3 form")
_INITIAL_USER: Final = (
    "openGauss does not allow its initial user {user} to connect over the network; create another account: CREATE "
    "USER bridge CREATEDB PASSWORD '...' (after password_encryption_type = 1), and use that"
)
_LOCKED: Final = (
    "openGauss has locked the account {user} after too many wrong passwords; unlock it as an administrator: "
    'ALTER USER "{user}" ACCOUNT UNLOCK, after correcting the password here'
)
_WRONG: Final = "the database refuses user {user} ({reason}); check user, password and pg_hba.conf"
_TLS: Final = (
    "the connection to the database is not as secure as its URL requires ({reason}); give the server a certificate, or "
    "correct sslmode and sslrootcert in the URL"
)

_RIDDLES: Final = (
    ("none of the server's SASL authentication mechanisms are supported", _SHA256_ONLY),
    ("AUTH_REQ_SASL_CONT without AUTH_REQ_SASL", _SHA256_ONLY),
    ("authentication method 10 not supported", _SHA256_ONLY),
    ("authentication method 11 not supported", _SHA256_ONLY),
    ("authentication method 13 not supported", _SM3_ONLY),
    ("Forbid remote connection with initial user", _INITIAL_USER),
    ("account has been locked", _LOCKED),
    ("Invalid username/password", _WRONG),
    ("password authentication failed", _WRONG),
    ("pg_hba.conf", _WRONG),
    ("no password supplied", _WRONG),
    ("authentication failed", _WRONG),
    ("认证失败", _WRONG),
    ("is not permitted to log in", _WRONG),
    ("does not support SSL", _TLS),
    ("certificate", _TLS),
)
"""Part of the client's or server's message → what it means."""


def login_refusal(message: str, user: str) -> LoginRefused | None:
    """What a failed connection attempt means; None where it was not the login that failed.

    Args:
        message: the driver's error text.
        user: the account that tried.
    """
    for part, meaning in _RIDDLES:
        if part.lower() in message.lower():
            reason = message.strip().rpartition("\n")[2].rpartition("FATAL:")[2].strip() or message.strip()
            return LoginRefused(meaning.format(user=user, reason=reason))
    return None
