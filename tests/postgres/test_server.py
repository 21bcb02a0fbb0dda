"""The throw-away server does what the other tests rely on."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.postgres.server import (
    OLDEST,
    Server,
    copy_for_everybody,
    find_account,
    start_server,
    version,
    wheel_binaries,
)


def keep_a_row(server: Server) -> None:
    server.psql("CREATE TABLE kept (number int)")
    server.psql("INSERT INTO kept VALUES (1)")


def assert_kept(server: Server) -> None:
    assert server.psql("SELECT number FROM kept") == [(1,)]


def test_it_keeps_port_and_data_through_every_end_and_leaves_nothing() -> None:
    with start_server(settings={"max_connections": "17"}) as server:
        url = server.url
        assert server.psql("SHOW fsync") == [("on",)]
        assert server.psql("SHOW max_connections") == [("17",)]
        assert server.psql("SHOW server_encoding") == [("UTF8",)]
        keep_a_row(server)
        ends: list[Callable[[], None]] = [server.stop, lambda: server.stop("immediate"), server.kill]
        for end in ends:
            end()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(url)
            server.start()
            assert server.url == url
            assert_kept(server)
    assert not server.directory.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_it_also_listens_on_a_socket_in_its_directory(postgres_server: Server) -> None:
    url = f"postgresql://postgres@/postgres?host={postgres_server.directory}&port={postgres_server.port}"
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


def test_two_may_start_at_the_same_time() -> None:
    def start_and_stop(_: int) -> int:
        with start_server(fsync=False) as server:
            keep_a_row(server)
            assert_kept(server)
            return server.port

    with ThreadPoolExecutor() as executor:
        ports = list(executor.map(start_and_stop, range(3)))
    assert len(set(ports)) == 3


def test_the_wheel_brings_a_server_that_works() -> None:
    binaries = wheel_binaries(find_account())
    assert binaries is not None, "pip install '.[test]'"
    with start_server(fsync=False, binaries=binaries) as server:
        assert server.psql("SHOW fsync") == [("off",)]
        keep_a_row(server)
        server.kill()
        server.start()
        assert_kept(server)


def test_binaries_are_copied_to_where_everybody_can_read() -> None:
    binaries = wheel_binaries(find_account())
    assert binaries is not None, "pip install '.[test]'"
    copy = copy_for_everybody(binaries.parent)
    assert version(copy / "bin", find_account()) >= OLDEST


def test_a_directory_without_a_server_has_no_version(tmp_path: Path) -> None:
    assert version(tmp_path, find_account()) == 0


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(AssertionError, match="no_such_setting"),
        start_server(settings={"no_such_setting": "1"}),
    ):
        pass


def test_each_database_is_fresh(postgres_server: Server, postgres_database: str) -> None:
    name = postgres_database.rpartition("/")[2]
    assert postgres_server.psql(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace", name
    ) == [(0,)]
    assert postgres_server.psql("SHOW synchronous_commit") == [("on",)]


def test_an_interrupt_of_the_tests_does_not_reach_it(postgres_server: Server) -> None:
    assert postgres_server.process is not None
    assert os.getpgid(postgres_server.process.pid) != os.getpgrp()
