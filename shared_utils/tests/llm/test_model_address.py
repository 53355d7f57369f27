from __future__ import annotations

import pytest

from shared_utils.llm.model_address import is_address, same, shown, tidy


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("http://host/v1", "http://host/v1/", True),
        ("http://HOST:80/v1", "http://host/v1", True),
        ("https://host:443/v1", "https://host/v1", True),
        ("http://host/v1", "http://me:secret@host/v1", True),
        ("http://me:secret@host/v1", "http://host/v1", False),
        ("http://me:secret@host/v1", "http://me:other@host/v1", False),
        ("http://host/v1", "http://host/v1?key=secret", True),
        ("http://host/v1?key=one", "http://host/v1?key=two", False),
        ("http://host/v1", "https://host/v1", False),
        ("http://host/v1", "http://host/v2", False),
        ("http://host/v1", "http://host:8080/v1", False),
        ("http://host/v1", "http://host.example/v1", False),
        ("3m5zok9w", "3m5zok9w", True),
        ("http://[broken", "http://host", False),
    ],
)
def test_addresses_are_compared_by_where_they_lead(one: str, other: str, *, equal: bool) -> None:
    assert same(one, other) is equal


def test_no_login_and_no_query_is_shown_and_what_is_shown_finds_the_address() -> None:
    address = "http://me:s3cret@host:8000/v1?key=s3cret"
    assert shown(address) == "http://host:8000/v1"
    assert same(shown(address), address)


@pytest.mark.parametrize("password", ["s3/cret", "s3#cret", "s3?cret", "s3@cret", "/s3cret", "[s3cret"])
def test_a_password_that_should_have_been_escaped_is_not_shown(password: str) -> None:
    assert shown(f"http://me:{password}@host/v1") == "http://host/v1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host/v1",
        "http://host/v1 http://other/v1",
        "http://me:s3/cret@host/v1",
        "postgresql://host/v1",
        "http://",
        "http://host:port/v1",
    ],
)
def test_other_texts_are_no_addresses(text: str) -> None:
    assert not is_address(text)


def test_an_address_is_kept_without_the_slash_at_its_end() -> None:
    assert tidy(" http://host/v1/ ") == "http://host/v1"
