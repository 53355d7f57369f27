from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from local_stack.errors import PortTaken
from local_stack.ports import _claims, choose_port, free_port, is_free


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.process
def test_port_reserved_by_one_process_is_not_given_to_another() -> None:
    program = "from local_stack.ports import free_port; print(free_port(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        port = int(other.stdout.readline())
        assert not _claims.take(port)
        other.communicate("\n")
    assert _claims.take(port)


def test_a_free_port_asked_for_is_kept() -> None:
    port = free_port()
    assert choose_port(port, "--redis-port") == port


def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"Port {port} .* --redis-port"):
            choose_port(port, "--redis-port")


def test_port_zero_picks_a_free_port() -> None:
    assert choose_port(0, "--redis-port") > 0


def test_port_with_a_listener_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
