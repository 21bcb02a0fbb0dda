"""`tq_server`: the real command in a process of its own, on a free port, in real time."""

import json
import time
import urllib.request
from typing import Any

import pytest

from tests.testing.handlers import handlers
from trioqueue import Handlers
from trioqueue.testing import ServerUnderTest
from trioqueue.testing.errors import AlreadyRunning, HandlersNotFound


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


def call(server: ServerUnderTest, path: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        parsed: dict[str, Any] = json.loads(answer.read())
        return parsed


def finished(server: ServerUnderTest, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (job := call(server, f"/jobs/{job_id}"))["status"] in ("pending", "processing"):
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def test_a_real_server_runs_jobs_and_ends_well(tq_server: ServerUnderTest) -> None:
    job = call(tq_server, "/jobs", {"type": "remind", "payload": {"user": 7}})
    assert finished(tq_server, job["id"])["result"] == "reminded 7"
    assert tq_server.stop() == 0
    assert not tq_server.is_running


def test_a_killed_server_starts_again_with_its_jobs(tq_server: ServerUnderTest) -> None:
    job = call(tq_server, "/jobs", {"type": "import", "payload": {"seconds": 0.2}})
    with pytest.raises(AlreadyRunning, match=r"stop\(\) or kill\(\) it before"):
        tq_server.start()
    assert tq_server.kill() == -9
    tq_server.start()
    assert finished(tq_server, job["id"])["status"] == "completed"


@pytest.mark.trioqueue(settings={"worker_count": 3, "lease_seconds": 7})
def test_settings_come_from_a_marker(tq_server: ServerUnderTest) -> None:
    assert call(tq_server, "/readyz?verbose")["workers"] == 3


def test_a_server_with_a_wrong_setting_says_why(
    request: pytest.FixtureRequest,
) -> None:
    request.node.add_marker(pytest.mark.trioqueue(settings={"lease_seconds": -1}))
    with pytest.raises(RuntimeError, match="TRIOQUEUE_LEASE_SECONDS"):
        request.getfixturevalue("tq_server")


class TestOfHandlersWithoutAName:
    @pytest.fixture
    def tq_handlers(self) -> Handlers:
        local = Handlers()
        local.handler("local")(lambda ctx: None)
        return local

    def test_handlers_that_cannot_be_imported_are_refused(self, request: pytest.FixtureRequest) -> None:
        with pytest.raises(HandlersNotFound, match="a global variable of a module"):
            request.getfixturevalue("tq_server")
