from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from bridge_bench.distant import distant
from bridge_bench.runs import Bench
from local_stack.ports import HOST

ROUND_TRIP: Final = 0.2


@contextmanager
def taking(at_least: float, less_than: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert at_least <= time.monotonic() - began < less_than


def test_opening_a_connection_takes_a_round_trip_and_each_request_another(bench: Bench) -> None:
    with (
        bench.harness.stub() as stub,
        distant(stub.url, ROUND_TRIP) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        with taking(2 * ROUND_TRIP, 10):
            assert client.get("/v1/health/").status_code == 200
        # The connection is open now. Less than twice a round trip would be too strict under load.
        with taking(ROUND_TRIP, 10):
            assert client.get("/v1/health/").status_code == 200


def test_pieces_sent_before_the_connection_is_open_keep_their_order(bench: Bench) -> None:
    with (
        bench.harness.stub() as stub,
        distant(stub.url, ROUND_TRIP) as url,
        socket.create_connection((HOST, int(url.rpartition(":")[2]))) as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for letter in b"GET /v1/health/ HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes([letter]))
            time.sleep(0.001)  # long enough to be read by itself
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_nothing_is_left_when_it_ends(bench: Bench) -> None:
    with bench.harness.stub() as stub, distant(stub.url, 0.001) as url:
        client = httpx.Client(base_url=url, trust_env=False)
        client.get("/v1/health/")
    client.close()
