"""How the service starts and ends as a process, under each host."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

import pytest

from tests.web.hosts import Host, Kind, read_all, start_host, wait_until

HERE = Path(__file__).parent
ALL: tuple[Kind, ...] = get_args(Kind)
WITHOUT_MANAGER: list[Kind] = ["asyncio-w0", "trio-w0", "serve"]


class Fakes:
    """Starts hosts of the fake site and reads what their nodes noted."""

    def __init__(self, directory: Path) -> None:
        self._trace = directory / "trace"

    def start(
        self, kind: Kind, job: str, *, grace: float = 1.0, ready: str | None = "/"
    ) -> AbstractContextManager[Host]:
        self._trace.touch()
        env = {"FAKE_JOB": job, "FAKE_GRACE": str(grace), "FAKE_TRACE": str(self._trace)}
        return start_host(kind, "fake_site:app", env=env, cwd=HERE, ready=ready)

    def notes(self) -> list[str]:
        return [line.split()[1] for line in self._trace.read_text().splitlines()]


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path)


@pytest.mark.parametrize("to", ["parent", "group"])
@pytest.mark.parametrize("kind", ALL)
def test_sigterm_drains(fakes: Fakes, kind: Kind, to: Literal["parent", "group"]) -> None:
    with fakes.start(kind, "short") as host:
        ended = host.stop(signal.SIGTERM, to=to)
        assert ended.code == 0, host.output()
        assert ended.seconds < 1.5
        assert "Traceback" not in host.output()
    assert fakes.notes().count("drained") == fakes.notes().count("started") > 0


@pytest.mark.parametrize("kind", ALL)
def test_control_c_drains(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "short") as host:
        assert host.stop(signal.SIGINT, to="group").code == 0
        assert "Traceback" not in host.output()
    assert fakes.notes().count("drained") == fakes.notes().count("started") > 0


def test_the_first_worker_to_end_does_not_cut_the_second(fakes: Fakes) -> None:
    with fakes.start("asyncio-w2", "uneven", grace=3) as host:
        wait_until(lambda: fakes.notes().count("started") == 2, 10)
        host.stop(signal.SIGTERM, to="group")
    assert fakes.notes().count("drained") == 2


@pytest.mark.parametrize("kind", ALL)
def test_the_grace_period_bounds_the_drain(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "long", grace=0.5) as host:
        ended = host.stop()
        assert ended.code == 0, host.output()
        assert 0.5 < ended.seconds < 1.5
    assert "drained" in fakes.notes()


@pytest.mark.parametrize("job", ["stubborn", "blocking"])
@pytest.mark.parametrize("kind", ALL)
def test_nothing_holds_the_process_longer_than_grace_and_two_seconds(fakes: Fakes, kind: Kind, job: str) -> None:
    with fakes.start(kind, job, grace=0.5) as host:
        time.sleep(1)  # so that the loop is blocked when the signal comes
        workers = host.children()
        ended = host.stop()
        assert ended.seconds < 2.5
        wait_until(lambda: not any(is_alive(pid) for pid in workers), 0.1)
        assert "gave up waiting with 1 claim still held" in host.output()
        if kind in WITHOUT_MANAGER:  # hypercorn's manager ends with 0 whatever its workers end with
            assert ended.code == 3


@pytest.mark.parametrize("kind", WITHOUT_MANAGER)
def test_a_second_signal_cuts(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "long", grace=30) as host:
        ended = host.stop(times=2)
        assert ended.code == 0, host.output()
        assert ended.seconds < 1.5
    assert "drained" in fakes.notes()


@pytest.mark.parametrize("kind", WITHOUT_MANAGER)
def test_a_second_signal_cuts_a_stubborn_job_as_well(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "stubborn", grace=30) as host:
        ended = host.stop(times=2)
        assert ended.code == 3
        assert ended.seconds < 2.5


@pytest.mark.parametrize("kind", ALL)
def test_a_crash_ends_the_process(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "crash", ready=None) as host:
        code = host.process.wait(10)
        assert host.output().count("RuntimeError: the pretended bug") == 1
        if kind in WITHOUT_MANAGER:
            assert code == 70


@pytest.mark.parametrize("kind", ["asyncio", "trio", *WITHOUT_MANAGER])
def test_wrong_settings_are_told_plainly(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "badconfig", ready=None) as host:
        code = host.process.wait(10)
        assert "- WORKER_COUNT: too many\n  - STORE: unknown\n" in host.output()
        assert "Traceback" not in host.output()
        if kind in WITHOUT_MANAGER:
            assert code == 78


@pytest.mark.parametrize("kind", ["asyncio", "trio", *WITHOUT_MANAGER])
def test_a_store_that_cannot_be_opened_is_told_plainly(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "nostore", ready=None) as host:
        code = host.process.wait(10)
        assert "the store is not available: no such directory" in host.output()
        assert "Traceback" not in host.output()
        if kind in WITHOUT_MANAGER:
            assert code == 70


@pytest.mark.parametrize("kind", ["asyncio", "trio", "asyncio-w2"])
def test_workers_whose_manager_was_killed_drain_and_end(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "short") as host:
        workers = host.children()
        assert len(workers) == (2 if kind == "asyncio-w2" else 1)
        host.signal(signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in workers), 3)
    assert fakes.notes().count("drained") == len(workers)


@pytest.mark.parametrize("kind", ALL)
def test_clients_do_not_hold_up_the_end(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "idle") as host, host.connect() as idle, host.connect() as deaf, host.connect() as long:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert idle.recv(100)
        deaf.sendall(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        long.sendall(b"GET /forever HTTP/1.1\r\nHost: test\r\n\r\n")
        assert long.recv(100)
        ended = host.stop()
        assert ended.seconds < 2.0, host.output()
        assert ended.code == 0
    assert "drained" in fakes.notes()


@pytest.mark.parametrize("kind", ["asyncio", "trio", "serve"])
def test_a_request_in_flight_is_answered(fakes: Fakes, kind: Kind) -> None:
    with fakes.start(kind, "idle") as host, host.connect() as client:
        client.sendall(b"GET /slow/0.6 HTTP/1.1\r\nHost: test\r\n\r\n")
        time.sleep(0.1)
        ended = host.stop()
        assert ended.seconds < 1.2
        assert read_all(client).endswith(b"slow")


def test_serve_says_where_it_listens(fakes: Fakes) -> None:
    with fakes.start("serve", "idle") as host:
        assert f"listening on http://127.0.0.1:{host.port}" in host.output()


def test_an_address_in_use_is_told_plainly(fakes: Fakes) -> None:
    with fakes.start("serve", "idle") as first, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.web.hosts.free_port", lambda: first.port)
        with fakes.start("serve", "idle", ready=None) as second:
            assert second.process.wait(10) == 70
            assert re.search(rf"cannot listen on 127.0.0.1:{first.port}: Address already in use", second.output())
            assert "Traceback" not in second.output()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "(" in (stat := Path(f"/proc/{pid}/stat")).read_text() and ") Z " not in stat.read_text()
