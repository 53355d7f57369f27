"""Only a user's own files inside the upload directory are read, and none of them holds the bridge up."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.errors import UploadRefused
from letta_bridge.turn.uploads import Uploads, user_folder

LIMIT = 1000
ADA, BOB = user_folder("ada"), user_folder("bob")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The upload directory, with files of ada and bob and a shared one."""
    root = tmp_path / "uploads"
    (root / ADA / "voice").mkdir(parents=True)
    (root / ADA / "note.txt").write_text("留言", encoding="utf-8")
    (root / ADA / "voice" / "one.txt").write_text("one", encoding="utf-8")
    (root / BOB).mkdir()
    (root / BOB / "note.txt").write_text("bob's", encoding="utf-8")
    (root / BOB / "only-bob.txt").write_text("bob's", encoding="utf-8")
    (root / "shared.txt").write_text("everybody's", encoding="utf-8")
    (root / "album").mkdir()
    (root / "album" / "one.txt").write_text("everybody's", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "uploads-of-others").mkdir()
    (tmp_path / "uploads-of-others" / "x.txt").write_text("theirs", encoding="utf-8")
    return root


def text_of(root: Path, name: str, *, shared: bool = False) -> Any:
    return Uploads(root, LIMIT, shared).read("ada", name)


async def refused(root: Path, name: str, sentence: str, *, shared: bool = False) -> None:
    with pytest.raises(UploadRefused, match=sentence) as caught:
        async with asyncio.timeout(10):
            await text_of(root, name, shared=shared)
    assert str(root.parent) not in str(caught.value)
    assert caught.value.code == "upload_refused"


OWN_NOTES = [
    "note.txt",
    "./note.txt",
    "voice/../note.txt",
    f"../{ADA}/note.txt",
    f"{ADA}/note.txt",
    f"x/../{ADA}/note.txt",
]


@pytest.mark.parametrize("name", OWN_NOTES)
@pytest.mark.parametrize("shared", [False, True])
async def test_a_users_own_file_is_read_however_it_is_named(root: Path, name: str, shared: bool) -> None:
    assert await text_of(root, name, shared=shared) == "留言"


async def test_an_absolute_path_inside_the_users_folder_is_read(root: Path) -> None:
    assert await text_of(root, str(root / ADA / "voice" / "one.txt")) == "one"


@pytest.mark.parametrize(
    "name", [f"../{BOB}/note.txt", f"{BOB}/note.txt", f"{BOB}/only-bob.txt", f"{BOB.upper()}/note.txt"]
)
@pytest.mark.parametrize("shared", [False, True])
async def test_another_users_file_is_refused(root: Path, name: str, shared: bool) -> None:
    await refused(root, name, "outside its user's folder|does not exist", shared=shared)
    await refused(root, str(root / BOB / "note.txt"), "outside its user's folder", shared=shared)


@pytest.mark.parametrize("name", ["../shared.txt", "../album/one.txt"])
async def test_shared_upload_is_read_only_if_uploads_are_shared(root: Path, name: str) -> None:
    await refused(root, name, "outside its user's folder .* set uploads.shared")
    assert await text_of(root, name.removeprefix("../"), shared=True) == "everybody's"
    assert await text_of(root, str(root / name.removeprefix("../")), shared=True) == "everybody's"
    await refused(root, name.removeprefix("../"), "does not exist")


async def test_where_uploads_are_shared_the_users_own_file_comes_first(root: Path) -> None:
    (root / "note.txt").write_text("everybody's", encoding="utf-8")
    assert await text_of(root, "note.txt", shared=True) == "留言"


@pytest.mark.parametrize("user", ["ada", "小明", "../..", "a/b", ".", "", "x" * 1000, "\ud83d", "CON", "a:b", "*"])
def test_a_folders_name_is_safe_for_any_user(user: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", user_folder(user))


@pytest.mark.parametrize("target", ["voice/one.txt", "../shared.txt", "../../secret.txt", "/etc/passwd"])
async def test_a_link_is_not_followed(root: Path, target: str) -> None:
    (root / ADA / "link.txt").symlink_to(target)
    await refused(root, "link.txt", "does not exist or cannot be read")


@pytest.mark.parametrize("target", ["voice", "..", f"../{BOB}", "/etc"])
async def test_a_link_to_a_directory_is_not_followed(root: Path, target: str) -> None:
    (root / ADA / "dir").symlink_to(target)
    for name in ("dir/one.txt", "dir/note.txt", "dir/shared.txt", "dir/passwd"):
        await refused(root, name, "does not exist or cannot be read")


def test_a_directory_swapped_for_a_link_while_it_is_read_leads_nowhere(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "one.txt").write_text("TOP SECRET", encoding="utf-8")
    (root / ADA / "link").symlink_to(outside)
    fetched = ctypes.CDLL(None, use_errno=True).renameat2
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            fetched(-100, os.fsencode(root / ADA / "voice"), -100, os.fsencode(root / ADA / "link"), 2)

    # The threads take turns so often that of 1000 reads that check a path before they open it some find the link.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    swapping = threading.Thread(target=swap)
    swapping.start()
    texts = set()
    try:
        for _ in range(2_000):
            with contextlib.suppress(UploadRefused):
                texts.add(Uploads(root, LIMIT)._read("ada", "voice/one.txt"))
    finally:
        over.set()
        swapping.join()
        sys.setswitchinterval(interval)
    assert texts == {"one"}


async def test_a_root_that_is_a_link_itself_works(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(root)
    assert await text_of(tmp_path / "linked", "note.txt") == "留言"


@pytest.mark.parametrize(
    "name", ["../../secret.txt", "voice/../../../secret.txt", "../../uploads-of-others/x.txt", "/etc/passwd", "../.."]
)
@pytest.mark.parametrize("shared", [False, True])
async def test_upload_outside_the_directory_is_refused(root: Path, name: str, shared: bool) -> None:
    await refused(root, name, "outside the upload directory", shared=shared)


async def test_links_in_a_circle_are_refused(root: Path) -> None:
    (root / ADA / "a").symlink_to("b")
    (root / ADA / "b").symlink_to("a")
    await refused(root, "a", "does not exist or cannot be read")


@pytest.mark.parametrize("name", ["missing.txt", "note.txt/x", "a\0b", "\ud800", "x" * 5000, "~/note.txt"], ids=ascii)
async def test_missing_upload_is_refused(root: Path, name: str) -> None:
    await refused(root, name, "does not exist or cannot be read")


async def test_without_a_root_everything_is_refused(root: Path) -> None:
    await refused(root / "missing", "note.txt", "does not exist or cannot be read")


@pytest.mark.parametrize("name", ["", ".", "voice"])
async def test_a_directory_is_refused(root: Path, name: str) -> None:
    await refused(root, name, "does not name a regular file")


async def test_pipe_without_a_writer_is_refused_at_once(root: Path) -> None:
    os.mkfifo(root / ADA / "pipe")
    await refused(root, "pipe", "does not name a regular file")


async def test_a_file_may_be_as_large_as_the_limit(root: Path) -> None:
    (root / ADA / "large.txt").write_bytes(b"x" * LIMIT)
    assert await text_of(root, "large.txt") == "x" * LIMIT
    (root / ADA / "large.txt").write_bytes(b"x" * (LIMIT + 1))
    await refused(root, "large.txt", f"more than {LIMIT} bytes")


@pytest.mark.parametrize("content", [b"\x89PNG\xff", "留言".encode("gbk"), b"\x7fELF\x02\x01" + bytes(9)])
async def test_upload_that_is_not_utf8_is_refused(root: Path, content: bytes) -> None:
    (root / ADA / "odd.txt").write_bytes(content)
    await refused(root, "odd.txt", "not UTF-8")


@pytest.mark.parametrize(("content", "text"), [(b"", ""), (b"\xef\xbb\xbfhi", "hi"), (b"a\r\nb", "a\r\nb")])
async def test_text_is_read_as_it_is_but_for_a_byte_order_mark(root: Path, content: bytes, text: str) -> None:
    (root / ADA / "odd.txt").write_bytes(content)
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
async def test_a_few_broken_characters_are_replaced(root: Path, content: bytes, text: str) -> None:
    (root / ADA / "odd.txt").write_bytes(content)
    assert await text_of(root, "odd.txt") == text
