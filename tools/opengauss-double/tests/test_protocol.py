from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengauss_double import PROFILES, Refusal, binding, protocol, settings
from opengauss_double.protocol import Message
from opengauss_double.relay import as_client_sees
from opengauss_double.upstream import Address

_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_values = st.lists(st.none() | st.binary(max_size=5), max_size=5)


def bound(values: list[bytes | None]) -> Message:
    packed = b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values)
    return Message(b"B", b"p\0s\0" + struct.pack("!hhhh", 2, 0, 1, len(values)) + packed + b"\0\0")


@given(_values, st.sets(st.integers(0, 4)))
def test_only_the_named_empty_parameters_become_null(values: list[bytes | None], named: set[int]) -> None:
    expected = [None if value == b"" and index in named else value for index, value in enumerate(values)]
    assert binding.with_nulls(bound(values), named) == bound(expected)


@given(st.dictionaries(_names.filter(bool), _names))
def test_startup_parameters_survive_the_wire(parameters: dict[str, str]) -> None:
    assert protocol.startup_parameters(protocol.startup_packet(parameters)[8:]) == parameters


@given(_names, _names, st.binary())
def test_a_parse_survives_being_taken_apart(name: str, sql: str, tail: bytes) -> None:
    assert binding.parsed(protocol.parse(name, sql, tail)) == (name, sql, tail)


def test_an_error_loses_postgresqls_fields_and_gains_openGausss() -> None:  # noqa: N802 - its name
    sent = {
        "S": "ERROR",
        "V": "ERROR",
        "C": "23505",
        "M": "m",
        "D": "d",
        "s": "public",
        "t": "t",
        "n": "t_pkey",
        "P": "4",
    }
    seen = protocol.fields(protocol.as_opengauss(b"E", sent).body)
    assert set(seen) == {"S", "c", "C", "M", "d", "D", "P"}
    assert (seen["C"], seen["M"], seen["D"], seen["P"]) == ("23505", "m", "d", "4")


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        (Message(b"A", b"\0\0\0\1c\0p\0"), False),
        (protocol.parameter_status("is_superuser", "on"), False),
        (protocol.parameter_status("TimeZone", "UTC"), True),
        (Message(b"D", b"\0\1\0\0\0\2\xff\xfe"), True),
    ],
)
def test_message_fields_unknown_to_openGauss_are_dropped(message: Message, seen: bool) -> None:  # noqa: N802 - its name
    assert as_client_sees(message) == (message if seen else None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("600", 600), ("10min", 600), ("500ms", 0.5), ("2s", 2), ("1 h", 3600), ("0", None), ("never", None), ("", None)],
)
def test_a_duration_is_parsed_to_seconds(value: str, seconds: float | None) -> None:
    assert settings.seconds(value) == seconds


def test_settings_of_datavec_are_unknown_without_it() -> None:
    assert settings.upstream_name("HNSW_ef_search", PROFILES["7.0"]) == "hnsw.ef_search"
    with pytest.raises(Refusal, match='unrecognized configuration parameter "hnsw_ef_search"'):
        settings.upstream_name("hnsw_ef_search", PROFILES["6.0"])


def test_the_upstream_address_is_parsed_and_hides_its_password() -> None:
    address = Address.parse("postgresql://me:p%40ss@example:6000/base")
    assert address == Address("example", 6000, "me", "p@ss", "base")
    assert "p@ss" not in repr(address)
    assert Address.parse("postgres://example/").database == "postgres"
    with pytest.raises(ValueError, match="is no URL of the form"):
        Address.parse("example:5432")
