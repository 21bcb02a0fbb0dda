"""The shutdown matrix: eight states × three signals × every host, as real processes.

Whatever a client or a handler does, the service is out within its grace period plus two seconds;
finished work is not run again, and what was released has cost no attempt.
"""

import http.client
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import apsw
import pytest

from tests.web.hosts import Ended, Host, Kind, start_host, wait_until

ROOT = Path(__file__).parent.parent.parent
GRACE_SECONDS = 1.0
LIMIT_SECONDS = GRACE_SECONDS + 2.0

SIGNALS = {"TERM": (signal.SIGTERM, 1), "INT": (signal.SIGINT, 1), "TERM twice": (signal.SIGTERM, 2)}


@dataclass
class Trial:
    """One service in one state, and what it left behind."""

    state: str
    directory: Path
    host: Host
    open: ExitStack = field(default_factory=ExitStack)
    ended: Ended | None = None

    def post(self, type: str, count: int = 1, **payload: object) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.host.port, timeout=20)
        for _ in range(count):
            body = json.dumps({"type": type, "payload": payload})
            connection.request("POST", "/jobs", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 201, answer
        connection.close()

    def noted(self, word: str) -> list[str]:
        path = self.directory / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(word)]

    def wait_started(self, count: int) -> None:
        wait_until(lambda: len(self.noted("start")) >= count, 20, self.host.output)

    def rows(self, sql: str) -> list[Any]:
        connection = apsw.Connection(str(self.directory / "trioqueue.db"))
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


def idle(trial: Trial) -> None:
    """Nothing to do."""


def busy(trial: Trial) -> None:
    """Two jobs that end within the grace period, one that does not."""
    trial.post("work", 2, seconds=0.5)
    trial.post("work", seconds=60)
    trial.wait_started(3)


def full_channel(trial: Trial) -> None:
    """Far more jobs than workers."""
    trial.post("work", 60, seconds=0.3)
    trial.wait_started(10)


def client_that_never_reads(trial: Trial) -> None:
    """Asks for a long list again and again, and takes nothing of it."""
    trial.post("work", 150, seconds=0.0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", trial.host.port))
    client.sendall(b"GET /jobs?limit=500 HTTP/1.1\r\nhost: test\r\n\r\n" * 50)
    trial.open.enter_context(client)


def leaked_thread(trial: Trial) -> None:
    """A thread that a finished handler has left behind."""
    trial.post("leak")
    trial.wait_started(1)


def slow_to_unwind(trial: Trial) -> None:
    trial.post("unwind")
    trial.wait_started(1)


def swallowing_handler(trial: Trial) -> None:
    trial.post("swallow")
    trial.wait_started(1)


def blocked_thread(trial: Trial) -> None:
    trial.post("block")
    trial.wait_started(1)


STATES: dict[str, Callable[[Trial], None]] = {
    function.__name__: function
    for function in (
        idle,
        busy,
        full_channel,
        client_that_never_reads,
        leaked_thread,
        slow_to_unwind,
        swallowing_handler,
        blocked_thread,
    )
}
STUCK = {"swallowing_handler", "blocked_thread"}


@pytest.fixture
def trials(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Trial]]:
    """A service in each of the states, side by side: most of a shutdown is waiting."""
    kind: Kind = request.node.callspec.params["kind"]
    with ExitStack() as stack, ThreadPoolExecutor(len(STATES)) as pool:

        def start(state: str) -> Trial:
            directory = tmp_path / state
            directory.mkdir()
            host = stack.enter_context(
                start_host(
                    kind,
                    cwd=directory,
                    ready="/readyz",
                    env={
                        "PYTHONPATH": str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""),
                        "TRIOQUEUE_HANDLERS": "tests.hosts.handlers:handlers",
                        "TRIOQUEUE_GRACE_SECONDS": str(GRACE_SECONDS),
                        "WORKER_COUNT": "10",
                        "TEST_LEDGER": str(directory / "ledger"),
                    },
                )
            )
            trial = Trial(state, directory, host)
            stack.push(trial.open)
            STATES[state](trial)
            return trial

        yield list(pool.map(start, STATES))


@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_host_is_out_in_time_and_keeps_its_promises(
    trials: list[Trial], kind: Kind, signals: str
) -> None:
    number, times = SIGNALS[signals]
    with ThreadPoolExecutor(len(trials)) as pool:
        endings = list(pool.map(lambda trial: trial.host.stop(number, times=times), trials))

    late = {
        trial.state: round(ended.seconds, 2)
        for trial, ended in zip(trials, endings, strict=True)
        if ended.seconds > LIMIT_SECONDS
    }
    assert late == {}
    for trial, ended in zip(trials, endings, strict=True):
        check_promises(trial, cut=times == 2)
        if kind == "serve":
            assert ended.code == (3 if trial.state in STUCK else 0), (trial.state, trial.host.output())


def check_promises(trial: Trial, *, cut: bool) -> None:
    """Reads the store that the service left behind, and the handlers' own ledger."""
    about = (trial.state, trial.host.output())
    starts, ends = Counter(trial.noted("start")), set(trial.noted("end"))
    jobs = {row[0]: row[1:] for row in trial.rows("SELECT id, type, status, attempt, crash_count FROM jobs")}
    outcomes = Counter(
        (row[0], row[1])
        for row in trial.rows("SELECT jobs.id, attempts.outcome FROM attempts JOIN jobs USING (seq)")
    )
    assert set(starts) <= set(jobs), about
    for job_id, (type, status, attempt, crash_count) in jobs.items():
        assert starts[job_id] <= 1, about
        assert crash_count == 0, about
        if job_id in ends:
            assert (status, outcomes[job_id, "completed"]) == ("completed", 1), about
        elif type == "work" or (type == "unwind" and status == "pending"):
            # Not begun, or begun and cut: it starts elsewhere, and has cost no attempt.
            assert (status, attempt) == ("pending", 0), about
            assert outcomes[job_id, "released"] == starts[job_id], about
        else:
            # It would not let go in time: never handed on while it runs. Its node had said that it
            # was told to stop, so whoever takes the job over counts no crash.
            assert (status, attempt) == ("processing", 1), about
            assert trial.rows("SELECT stopping FROM nodes JOIN jobs USING (node)") == [(1,)], about
    if trial.state == "busy" and not cut:
        assert len(ends) == 2, about
    counted = dict(trial.rows("SELECT status, sum(jobs) FROM counters GROUP BY status"))
    assert counted == Counter(status for _, status, *_ in jobs.values()), about


@pytest.mark.parametrize("kind", ["asyncio", "trio", "asyncio-w2"])
def test_a_signal_to_the_whole_group_drains_too(kind: Kind, tmp_path: Path) -> None:
    """What systemd does by default: the manager and its workers all get the signal."""
    env = {
        "PYTHONPATH": str(ROOT),
        "TRIOQUEUE_HANDLERS": "tests.hosts.handlers:handlers",
        "TRIOQUEUE_GRACE_SECONDS": "5",
        "TEST_LEDGER": str(tmp_path / "ledger"),
    }
    with start_host(kind, cwd=tmp_path, ready="/readyz", env=env) as host:
        trial = Trial("group", tmp_path, host)
        trial.post("work", 4, seconds=1.5)
        trial.wait_started(4)
        ended = host.stop(signal.SIGTERM, to="group")

        assert ended.seconds < 5
        assert len(trial.noted("end")) == 4
        check_promises(trial, cut=False)
