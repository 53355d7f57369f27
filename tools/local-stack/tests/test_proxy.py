from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from local_stack.proxy import TcpProxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while chunk := self.request.recv(65536):
                cast("EchoServer", self.server).received += chunk
                self.request.sendall(chunk)
        except OSError:
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    received = b""


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer(("127.0.0.1", 0), Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield echo
        echo.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy(f"127.0.0.1:{server.server_address[1]}") as proxy:
        yield proxy


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connect(proxy) as sock:
        yield sock


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def echoed(sock: socket.socket, data: bytes = b"hello") -> bytes:
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        chunk = sock.recv(65536)
        if not chunk:
            break
        got += chunk
    return got


def until_reset(sock: socket.socket) -> bytes:
    """What still arrives before the connection is reset; an orderly end fails."""
    got = b""
    try:
        while chunk := sock.recv(100):
            got += chunk
    except ConnectionResetError:
        return got
    pytest.fail(f"closed in order after {got!r}")


def silent(sock: socket.socket, seconds: float = 0.15) -> bool:
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        sock.settimeout(10)


def test_forwards_both_ways_and_counts(proxy: TcpProxy, client: socket.socket) -> None:
    data = b"x" * 300_000
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    got = 0
    while got < len(data):
        got += len(client.recv(65536))
    sender.join()
    proxy.wait_for(lambda p: p.to_client == len(data))
    assert (proxy.accepted, proxy.connections, proxy.to_server) == (1, 1, len(data))


def test_a_closed_client_closes_the_pair(proxy: TcpProxy) -> None:
    with connect(proxy) as sock:
        assert echoed(sock) == b"hello"
    proxy.wait_for(lambda p: p.connections == 0)


def test_half_close_reaches_the_server_and_its_answer_comes_back(proxy: TcpProxy, client: socket.socket) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    got = b""
    while chunk := client.recv(100):
        got += chunk
    assert got == b"last words"


def test_cut_resets_open_connections_and_accepts_new_ones(proxy: TcpProxy, client: socket.socket) -> None:
    assert echoed(client) == b"hello"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert proxy.connections == 0
    with connect(proxy) as again:
        assert echoed(again) == b"hello"


def test_refuse_and_resume_on_the_same_port(proxy: TcpProxy, client: socket.socket) -> None:
    echoed(client)
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.resume()
    with connect(proxy) as again:
        assert echoed(again) == b"hello"


def test_a_black_hole_takes_everything_and_delivers_it_after_resume(
    proxy: TcpProxy, client: socket.socket, server: EchoServer
) -> None:
    proxy.blackhole()
    client.sendall(b"hello")
    with connect(proxy) as later:
        later.sendall(b"me too")
        assert silent(client)
        assert silent(later)
        assert server.received == b""
        proxy.resume()
        assert client.recv(100) == b"hello"
        assert later.recv(100) == b"me too"


def test_a_black_hole_hides_that_the_client_left(proxy: TcpProxy, server: EchoServer) -> None:
    with connect(proxy) as sock:
        echoed(sock)
        proxy.blackhole()
    assert proxy.connections == 1
    proxy.resume()
    proxy.wait_for(lambda p: p.connections == 0)


def test_dropped_answers_vanish_while_requests_arrive(
    proxy: TcpProxy, client: socket.socket, server: EchoServer
) -> None:
    echoed(client, b"before")
    proxy.drop_answers()
    client.sendall(b"lost")
    assert silent(client)
    proxy.wait_for(lambda p: p.to_server == 10)
    proxy.resume()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as again:
        assert echoed(again, b"after") == b"after"
    assert server.received == b"beforelostafter"


def test_delay_is_per_direction(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(to_client=0.2)
    began = time.monotonic()
    assert echoed(client) == b"hello"
    assert time.monotonic() - began >= 0.2
    proxy.delay()
    began = time.monotonic()
    assert echoed(client) == b"hello"
    assert time.monotonic() - began < 0.2


def test_cut_after_bytes_to_the_server(proxy: TcpProxy, client: socket.socket, server: EchoServer) -> None:
    proxy.cut_after(to_server=3)
    client.sendall(b"hello")
    assert b"hel".startswith(until_reset(client))
    proxy.wait_for(lambda p: p.connections == 0)
    assert proxy.to_server == 3
    with connect(proxy) as again:
        assert echoed(again) == b"hello"


def test_cut_after_bytes_to_the_client(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.cut_after(to_client=7)
    assert echoed(client) == b"hello"
    client.sendall(b"world")
    assert until_reset(client) == b"wo"


def test_cut_gets_through_to_a_sender_whose_peer_does_not_read() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        TcpProxy(f"127.0.0.1:{deaf.getsockname()[1]}") as proxy,
        connect(proxy) as sock,
    ):
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.sendall(b"x" * 100_000_000)
        proxy.cut()
        assert proxy.connections == 0


def test_a_dead_target_resets_the_client(server: EchoServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as short:
        port = short.getsockname()[1]
    with TcpProxy(f"127.0.0.1:{port}") as proxy:
        try:
            sock = connect(proxy)
        except ConnectionResetError:
            return  # before the client had even looked whether it is connected
        with sock:
            assert until_reset(sock) == b""


def test_the_url_keeps_everything_but_the_address() -> None:
    with TcpProxy("postgresql://me:secret@127.0.0.1:1/db?sslmode=disable") as proxy:
        assert proxy.url == f"postgresql://me:secret@127.0.0.1:{proxy.port}/db?sslmode=disable"


def test_a_target_without_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="host:port"):
        TcpProxy("localhost")


def test_wait_for_gives_up(proxy: TcpProxy) -> None:
    with pytest.raises(TimeoutError):
        proxy.wait_for(lambda p: p.accepted == 5, timeout=0.05)
