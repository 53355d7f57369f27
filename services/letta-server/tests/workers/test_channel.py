"""Messages and connections between two ends in one process."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from letta_server.workers.channel import Channel, ChannelClosed, channel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = channel()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_keep_their_order_and_boundaries(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.tell("serving", 1, 2)
    ours.tell("ready")
    assert [words for words, _ in theirs.heard()] == [["serving", "1", "2"], ["ready"]]
    assert list(theirs.heard()) == []


def test_what_the_other_end_has_no_room_for_is_sent_later(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    said = [str(number) for number in range(10_000)]
    for run_id in said:
        ours.tell("begun", run_id)
    assert ours.is_stuck
    heard: list[str] = []
    while len(heard) < len(said):
        heard += [words[1] for words, _ in theirs.heard()]
        ours.flush()
    assert heard == said


def test_a_given_connection_is_open_at_both_ends_until_both_close_it(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    client, served = socket.socketpair()
    with client, served:
        assert ours.give(served)
        [(words, taken)] = theirs.heard()
        assert words == ["connection"]
        assert taken is not None
        with taken:
            taken.sendall(b"hello")
            assert client.recv(5) == b"hello"
        served.sendall(b"again")
        assert client.recv(5) == b"again"


def test_an_ended_process_is_noticed_after_its_last_message(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.tell("begun", "run-1")
    theirs.close()
    heard = ours.heard()
    assert next(heard)[0] == ["begun", "run-1"]
    with pytest.raises(ChannelClosed):
        next(heard)
    ours.tell("end", "run-1")
    assert not ours.is_stuck
    client, served = socket.socketpair()
    with client, served:
        assert not ours.give(served)
