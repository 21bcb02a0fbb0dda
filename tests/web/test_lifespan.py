"""How the service starts and ends as a process, under each host. The hosts of one test run at once."""

import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.web.hosts import Ended, Host, Kind, read_all, start_host, wait_until

HERE = Path(__file__).parent
MANAGED: list[Kind] = ["asyncio", "trio", "asyncio-w2"]
ALONE: list[Kind] = ["asyncio-w0", "trio-w0", "serve"]
"""Without a manager process, which would end with 0 whatever its workers end with."""

Hosts = dict[Kind, Host]

SLACK_SECONDS = 1.0
"""Several processes end at once here, on a machine that may have more to do."""


class Fakes:
    """Starts hosts of the fake site, and reads what their nodes noted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def start(
        self, kinds: Sequence[Kind], job: str, *, grace: float = 1.0, until: str = "started"
    ) -> Iterator[Hosts]:
        """Until every node has noted that, or until it has been started at all with "born"."""
        with ExitStack() as stack:
            hosts: Hosts = {}
            for kind in kinds:
                (self._directory / kind).touch()
                env = {"FAKE_JOB": job, "FAKE_GRACE": str(grace), "FAKE_TRACE": str(self._directory / kind)}
                running = start_host(kind, "fake_site:app", env=env, cwd=HERE, ready=None)
                hosts[kind] = stack.enter_context(running)
            for kind, host in hosts.items():
                if until != "born":
                    self._wait_for(until, kind)
                if until == "started":
                    host.wait_ready("/")
            yield hosts

    def _wait_for(self, word: str, kind: Kind) -> None:
        wait_until(lambda: self.notes(kind).count(word) == workers_of(kind), 20)

    def notes(self, kind: Kind) -> list[str]:
        return [line.split()[1] for line in (self._directory / kind).read_text().splitlines()]

    def all_have_drained(self, kind: Kind) -> bool:
        return self.notes(kind).count("drained") == workers_of(kind)


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path)


def test_sigterm_to_the_process_group_drains(fakes: Fakes) -> None:
    with fakes.start(["asyncio", "trio", *ALONE], "short") as hosts:
        for kind, ended in stop(hosts, signal.SIGTERM, to="group").items():
            assert_drained(fakes, hosts, kind, ended, seconds=1.0)


def test_sigterm_to_the_manager_drains(fakes: Fakes) -> None:
    with fakes.start(["asyncio", "trio"], "short") as hosts:
        for kind, ended in stop(hosts, signal.SIGTERM, to="parent").items():
            assert_drained(fakes, hosts, kind, ended, seconds=1.0)


def test_control_c_drains(fakes: Fakes) -> None:
    with fakes.start(["asyncio", *ALONE], "short") as hosts:
        for kind, ended in stop(hosts, signal.SIGINT, to="group").items():
            assert_drained(fakes, hosts, kind, ended, seconds=1.0)


def test_the_first_worker_to_end_does_not_cut_the_second(fakes: Fakes) -> None:
    with fakes.start(["asyncio-w2"], "uneven", grace=3) as hosts:
        for kind, ended in stop(hosts, signal.SIGTERM, to="group").items():
            assert_drained(fakes, hosts, kind, ended, seconds=2.0)


def test_the_grace_period_bounds_the_drain(fakes: Fakes) -> None:
    with fakes.start(["asyncio", "serve"], "long", grace=0.7) as hosts:
        for kind, ended in stop(hosts).items():
            assert ended.seconds > 0.7
            assert_drained(fakes, hosts, kind, ended, seconds=1.2)


@pytest.mark.parametrize(
    ("job", "kinds"),
    [
        ("stubborn", ["asyncio", "asyncio-w0", "serve"]),
        ("blocking", ["asyncio", "trio"]),
        ("blocking", ALONE),
    ],
)
def test_nothing_holds_the_process_longer_than_grace_and_two_seconds(
    fakes: Fakes, job: str, kinds: list[Kind]
) -> None:
    with fakes.start(kinds, job, grace=0.7, until="busy") as hosts:
        workers = [pid for host in hosts.values() for pid in host.children()]
        for kind, ended in stop(hosts).items():
            assert ended.seconds < 0.7 + 2.0 + SLACK_SECONDS, kind
            assert "gave up with 1 claim still held" in hosts[kind].output(), kind
            assert ended.code == (0 if kind in MANAGED else 3), kind
        assert not any(map(is_alive, workers))


def test_a_second_signal_cuts(fakes: Fakes) -> None:
    with fakes.start(ALONE, "long", grace=30) as hosts:
        for kind, ended in stop(hosts, times=2).items():
            assert_drained(fakes, hosts, kind, ended, seconds=1.0)


def test_a_second_signal_ends_even_what_cannot_be_cancelled(fakes: Fakes) -> None:
    with fakes.start(["serve"], "stubborn", grace=30, until="busy") as hosts:
        for kind, ended in stop(hosts, times=2).items():
            assert ended.code == 3, (kind, hosts[kind].output())
            assert ended.seconds < 2.0 + SLACK_SECONDS, kind


def test_a_crash_ends_the_process(fakes: Fakes) -> None:
    kinds: list[Kind] = ["asyncio", "trio", "asyncio-w0", "serve"]
    with fakes.start(kinds, "crash", until="born") as hosts:
        for kind, host in hosts.items():
            code = host.process.wait(20)
            assert host.output().count("RuntimeError: the pretended bug") == 1, kind
            assert code == 70 or kind in MANAGED, kind


def test_wrong_settings_are_told_plainly(fakes: Fakes) -> None:
    with fakes.start(["asyncio", "trio-w0", "serve"], "badconfig", until="born") as hosts:
        for kind, host in hosts.items():
            code = host.process.wait(20)
            assert "- WORKER_COUNT: too many\n  - STORE: unknown\n" in host.output(), kind
            assert "Traceback" not in host.output(), kind
            assert code == 78 or kind in MANAGED, kind


def test_a_store_that_cannot_be_opened_is_told_plainly(fakes: Fakes) -> None:
    with fakes.start(["asyncio-w0", "serve"], "nostore", until="born") as hosts:
        for kind, host in hosts.items():
            assert host.process.wait(20) == 70, kind
            assert "the store is not available: no such directory" in host.output(), kind
            assert "Traceback" not in host.output(), kind


def test_workers_whose_manager_was_killed_drain_and_end(fakes: Fakes) -> None:
    with fakes.start(["asyncio-w2", "trio"], "short") as hosts:
        workers = [pid for host in hosts.values() for pid in host.children()]
        assert len(workers) == 3
        for host in hosts.values():
            host.signal(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)), 5)
        assert all(map(fakes.all_have_drained, hosts))


def test_clients_do_not_hold_up_the_end(fakes: Fakes) -> None:
    with fakes.start(["asyncio", "trio", "asyncio-w0", "serve"], "idle") as hosts, ExitStack() as clients:
        for host in hosts.values():
            for path in (b"/", b"/forever", b"/large", b"/slow/9.0"):
                client = clients.enter_context(host.connect())
                client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: test\r\n\r\n")
            clients.enter_context(host.connect()).sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\n")
        for kind, ended in stop(hosts).items():
            assert_drained(fakes, hosts, kind, ended, seconds=1.3)


def test_a_request_in_flight_is_answered(fakes: Fakes) -> None:
    with fakes.start(["asyncio", "trio", "serve"], "idle") as hosts, ExitStack() as stack:
        clients = {kind: stack.enter_context(host.connect()) for kind, host in hosts.items()}
        for client in clients.values():
            client.sendall(b"GET /slow/0.5 HTTP/1.1\r\nHost: test\r\n\r\n")
        time.sleep(0.1)
        stop(hosts)
        for kind, client in clients.items():
            assert read_all(client).endswith(b"slow"), kind


def test_an_address_in_use_is_told_plainly(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    with fakes.start(["serve"], "idle") as hosts:
        port = hosts["serve"].port
        assert f"listening on http://127.0.0.1:{port}" in hosts["serve"].output()
        monkeypatch.setattr("tests.web.hosts.free_port", lambda: port)
        with fakes.start(["serve"], "idle", until="born") as others:
            other = others["serve"]
            assert other.process.wait(20) == 70
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in other.output()
            assert "Traceback" not in other.output()


def assert_drained(fakes: Fakes, hosts: Hosts, kind: Kind, ended: Ended, *, seconds: float) -> None:
    assert ended.code == 0, (kind, hosts[kind].output())
    assert ended.seconds < seconds + SLACK_SECONDS, kind
    assert "Traceback" not in hosts[kind].output(), (kind, hosts[kind].output())
    assert fakes.all_have_drained(kind), kind


def stop(
    hosts: Hosts,
    number: signal.Signals = signal.SIGTERM,
    *,
    to: Literal["parent", "group"] = "parent",
    times: int = 1,
) -> dict[Kind, Ended]:
    """Stop all the hosts at the same time."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        ended = pool.map(lambda host: host.stop(number, to=to, times=times), hosts.values())
        return dict(zip(hosts, ended, strict=True))


def workers_of(kind: Kind) -> int:
    return 2 if kind == "asyncio-w2" else 1


def is_alive(pid: int) -> bool:
    """Whether the process runs: neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
