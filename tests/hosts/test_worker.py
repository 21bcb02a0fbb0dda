"""`trioqueue worker`: a node without HTTP beside one that only answers, as real processes on one file."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.test_shutdown import GRACE_SECONDS, LIMIT_SECONDS, ROOT, Trial, check_promises
from tests.web.hosts import Host, start_host, start_worker, wait_until


def environment(directory: Path, **more: str) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""),
        "TRIOQUEUE_HANDLERS": "tests.hosts.handlers:handlers",
        "TRIOQUEUE_GRACE_SECONDS": str(GRACE_SECONDS),
        "TEST_LEDGER": str(directory / "ledger"),
        **more,
    }


def start(directory: Path, **more: str) -> AbstractContextManager[Host]:
    return start_worker(cwd=directory, env=environment(directory, **more))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Trial]:
    """A service that accepts jobs and runs none."""
    env = environment(tmp_path, WORKER_COUNT="0")
    with start_host("serve", cwd=tmp_path, ready="/readyz", env=env) as host:
        yield Trial("api", tmp_path, host)


def nodes(api: Trial) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(api.host.get("/nodes"))["nodes"]
    return found


def test_workers_run_what_another_process_accepts(api: Trial, tmp_path: Path) -> None:
    api.post("work", 4, seconds=0.3)
    with start(tmp_path, WORKER_COUNT="2") as worker, start(tmp_path, WORKER_COUNT="3"):
        api.post("work", 4, seconds=0.3)
        wait_until(lambda: len(api.noted("end")) == 8, 20, worker.output)
        assert sorted(node["workers"] for node in nodes(api)) == [0, 2, 3]
        assert worker.output().count("trioqueue: ") == 1
        assert "trioqueue: at work with 2 workers, without HTTP\n" in worker.output()
        ended = worker.stop(signal.SIGTERM)
        assert (ended.code, len(nodes(api))) == (0, 2)
    assert b'"status":"ok"' in api.host.get("/readyz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_end_finishes_what_it_runs(
    api: Trial, tmp_path: Path, number: signal.Signals
) -> None:
    with start(tmp_path) as worker:
        trial = Trial("busy", tmp_path, worker)
        api.post("work", 2, seconds=0.5)
        api.post("work", seconds=60)
        trial.wait_started(3)
        ended = worker.stop(number)
        assert (ended.code, ended.seconds < LIMIT_SECONDS) == (0, True), worker.output()
        check_promises(trial, cut=False)


def test_a_second_signal_cuts(api: Trial, tmp_path: Path) -> None:
    with start(tmp_path, TRIOQUEUE_GRACE_SECONDS="60") as worker:
        trial = Trial("cut", tmp_path, worker)
        api.post("work", 3, seconds=60)
        trial.wait_started(3)
        ended = worker.stop(signal.SIGTERM, times=2)
        assert (ended.code, ended.seconds < LIMIT_SECONDS) == (0, True), worker.output()
        check_promises(trial, cut=True)


def test_a_worker_whose_handler_does_not_stop_gives_up(api: Trial, tmp_path: Path) -> None:
    with start(tmp_path) as worker:
        trial = Trial("stuck", tmp_path, worker)
        api.post("swallow")
        trial.wait_started(1)
        ended = worker.stop(signal.SIGTERM)
        assert (ended.code, ended.seconds < LIMIT_SECONDS) == (3, True), worker.output()
        assert "gave up with 1 claim" in worker.output()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"WORKER_COUNT": "0"}, "WORKER_COUNT=0"),
        ({"TRIOQUEUE_STORE": "mysql://nope"}, "TRIOQUEUE_STORE='mysql://nope'"),
        ({"TRIOQUEUE_HANDLERS": "nowhere:handlers"}, "there is no module 'nowhere'"),
    ],
)
def test_a_worker_that_is_configured_wrongly_ends_with_78(
    tmp_path: Path, wrong: dict[str, str], words: str
) -> None:
    with start(tmp_path, **wrong) as worker:
        assert worker.process.wait(20) == 78
        assert words in worker.output()
        assert "Traceback" not in worker.output()


def test_a_node_without_workers_is_ready_while_work_waits(api: Trial, tmp_path: Path) -> None:
    api.post("work", 3, seconds=0)
    body = json.loads(api.host.get("/readyz?verbose"))
    assert (body["status"], body["workers"]) == ("ok", 0)
    assert json.loads(api.host.get("/health"))["jobs"]["pending"] == 3
    assert api.noted("start") == []
    assert api.host.stop(signal.SIGTERM).code == 0
