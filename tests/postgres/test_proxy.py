"""The proxy breaks what it is told to break, and nothing else."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest

from tests.postgres.proxy import Proxy, start_proxy
from tests.postgres.server import Server
from tests.web.hosts import free_port, wait_until

SILENT_SECONDS = 0.2


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back whatever it receives."""
    stack = ExitStack()
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def echo(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    client.sendall(data)
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with stack:
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo_port: int) -> Iterator[Proxy]:
    with start_proxy(echo_port) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (data := client.recv(65536)):
        received += data
    return received


def assert_silent(client: socket.socket) -> None:
    client.settimeout(SILENT_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)


def test_it_passes_on_what_is_sent(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"hello") == b"hello"
        big = b"x" * 5_000_000
        sender = threading.Thread(target=client.sendall, args=(big,))
        sender.start()
        assert receive(client, len(big)) == big
        sender.join()
        assert proxy.counts.open == 1
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    wait_until(lambda: proxy.counts.open == 0, 5)
    assert proxy.counts.accepted == 1
    assert proxy.counts.bytes_carried == 2 * (5 + len(big))


def test_latency_counts_in_each_direction(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"quick") == b"quick"
        proxy.latency_seconds = 0.1
        begin = time.monotonic()
        assert ask(client, b"slow") == b"slow"
        assert 0.2 <= time.monotonic() - begin < 0.6
        proxy.heal()
        begin = time.monotonic()
        assert ask(client, b"quick") == b"quick"
        assert time.monotonic() - begin < 0.1


def test_in_a_black_hole_nothing_arrives_until_it_heals(proxy: Proxy) -> None:
    with connect(proxy) as existing:
        assert ask(existing, b"before") == b"before"
        proxy.black_hole()
        existing.sendall(b"during")
        with connect(proxy) as new:
            new.sendall(b"new")
            assert_silent(new)
            assert_silent(existing)
            assert proxy.counts.open == 2
            proxy.heal()
            assert receive(existing, 6) == b"during"
            assert receive(new, 3) == b"new"


def test_what_a_client_sent_before_it_left_a_black_hole_still_arrives(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"before") == b"before"
        proxy.black_hole()
        client.sendall(b"late")
    carried = proxy.counts.bytes_carried
    proxy.heal()
    wait_until(lambda: proxy.counts.open == 0, 5)
    assert proxy.counts.bytes_carried >= carried + 4


def test_a_reset_ends_every_connection_even_in_a_black_hole(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        assert ask(one, b"1") + ask(other, b"2") == b"12"
        proxy.black_hole()
        proxy.reset_all()
        for client in (one, other):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        wait_until(lambda: proxy.counts.open == 0, 5)
        assert proxy.counts.reset == 2


def test_without_a_server_a_connection_is_reset() -> None:
    """At the first read, or while it is still being made: the proxy may be as quick as the client."""
    with start_proxy(free_port()) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)


def test_a_database_behind_it_survives_what_happened(postgres_server: Server) -> None:
    with start_proxy(postgres_server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            proxy.reset_all()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with closing(psycopg.connect(url)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_its_end_is_the_end_of_every_connection(echo_port: int) -> None:
    with start_proxy(echo_port) as proxy:
        client = connect(proxy)
        assert ask(client, b"1") == b"1"
        proxy.black_hole()
    with client:
        assert client.recv(1) == b""
