"""Only files inside the upload root are read, and none of them holds the bridge up."""

from __future__ import annotations

import asyncio
import os

import pytest

from letta_bridge.errors import UploadRefused
from letta_bridge.uploads import read_upload

LIMIT = 1000


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "uploads"
    (root / "voice").mkdir(parents=True)
    (root / "note.txt").write_text("留言", encoding="utf-8")
    (root / "voice" / "one.txt").write_text("one", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "uploads-of-others").mkdir()
    (tmp_path / "uploads-of-others" / "x.txt").write_text("theirs", encoding="utf-8")
    return root


def text_of(root, name):
    return read_upload(root, name, LIMIT)


async def refused(root, name, sentence):
    with pytest.raises(UploadRefused, match=sentence) as caught:
        async with asyncio.timeout(10):
            await text_of(root, name)
    assert str(root.parent) not in str(caught.value)
    assert caught.value.code == "upload_refused"


@pytest.mark.parametrize("name", ["note.txt", "./note.txt", "voice/../note.txt", "../uploads/note.txt"])
async def test_a_file_inside_the_root_is_read_however_it_is_named(root, name):
    assert await text_of(root, name) == "留言"


async def test_an_absolute_path_inside_the_root_is_read(root):
    assert await text_of(root, str(root / "voice" / "one.txt")) == "one"


async def test_a_link_that_stays_inside_is_followed(root):
    (root / "link.txt").symlink_to("voice/one.txt")
    assert await text_of(root, "link.txt") == "one"


async def test_a_root_that_is_a_link_itself_works(root, tmp_path):
    (tmp_path / "linked").symlink_to(root)
    assert await text_of(tmp_path / "linked", "note.txt") == "留言"


@pytest.mark.parametrize(
    "name", ["../secret.txt", "voice/../../secret.txt", "../uploads-of-others/x.txt", "/etc/passwd", ".."]
)
async def test_what_lies_outside_is_refused(root, name):
    await refused(root, name, "outside the upload directory")


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd"])
async def test_a_link_that_leads_outside_is_refused(root, target):
    (root / "link.txt").symlink_to(target)
    await refused(root, "link.txt", "outside the upload directory")


async def test_a_directory_link_that_leads_outside_is_refused(root):
    (root / "dir").symlink_to("..")
    await refused(root, "dir/secret.txt", "outside the upload directory")


async def test_links_in_a_circle_are_refused(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    await refused(root, "a", "does not exist or cannot be read")


@pytest.mark.parametrize("name", ["missing.txt", "note.txt/x", "a\0b", "\ud800", "x" * 5000, "~/note.txt"], ids=ascii)
async def test_what_does_not_exist_is_refused(root, name):
    await refused(root, name, "does not exist or cannot be read")


async def test_without_a_root_everything_is_refused(root):
    await refused(root / "missing", "note.txt", "does not exist or cannot be read")


@pytest.mark.parametrize("name", ["", ".", "voice"])
async def test_a_directory_is_refused(root, name):
    await refused(root, name, "does not name a regular file")


async def test_a_pipe_nobody_writes_to_is_refused_at_once(root):
    os.mkfifo(root / "pipe")
    await refused(root, "pipe", "does not name a regular file")


async def test_a_file_may_be_as_large_as_the_limit(root):
    (root / "large.txt").write_bytes(b"x" * LIMIT)
    assert await text_of(root, "large.txt") == "x" * LIMIT
    (root / "large.txt").write_bytes(b"x" * (LIMIT + 1))
    await refused(root, "large.txt", f"more than {LIMIT} bytes")


@pytest.mark.parametrize("content", [b"\x89PNG\xff", "留言".encode("gbk"), b"\x7fELF\x02\x01" + bytes(9)])
async def test_what_is_not_utf8_is_refused(root, content):
    (root / "odd.txt").write_bytes(content)
    await refused(root, "odd.txt", "not UTF-8")


@pytest.mark.parametrize(("content", "text"), [(b"", ""), (b"\xef\xbb\xbfhi", "hi"), (b"a\r\nb", "a\r\nb")])
async def test_text_is_read_as_it_is_but_for_a_byte_order_mark(root, content, text):
    (root / "odd.txt").write_bytes(content)
    assert await text_of(root, "odd.txt") == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("留言 😀".encode("utf-16"), "留言 😀"),
        ("留".encode() * 30 + b"\xe7\x95", "留" * 30 + "\ufffd"),
        (b"x" * 40 + b"\x00", "x" * 40 + "\ufffd"),
    ],
    ids=["utf-16", "cut within a character", "NUL at the end"],
)
async def test_a_few_broken_characters_are_replaced(root, content, text):
    (root / "odd.txt").write_bytes(content)
    assert await text_of(root, "odd.txt") == text
