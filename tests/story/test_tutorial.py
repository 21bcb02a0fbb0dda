"""The tutorial service's own story, through HTTP, in virtual time."""

import pytest
import trio
from trio.testing import MockClock

from tests.story.conftest import StartClient


@pytest.mark.parametrize(("workers", "seconds"), [(1, 100), (5, 20), (10, 10), (20, 5)])
async def test_a_hundred_jobs_of_a_second(
    start: StartClient, autojump_clock: MockClock, workers: int, seconds: int
) -> None:
    """More workers end sooner, exactly as many times sooner as there are more of them."""
    client = await start(worker_count=workers, demo_seconds=1)
    began = trio.current_time()
    for number in range(100):
        status, _ = await client.post("/jobs", {"type": f"job-{number}", "payload": {}})
        assert status == 201
    assert trio.current_time() == began

    await trio.sleep_until(began + seconds - 0.5)
    _, before = await client.get("/health")
    await trio.sleep_until(began + seconds)
    after = before
    while after["jobs"]["completed"] < 100 and trio.current_time() == began + seconds:
        # A server may still be writing the last outcomes: in real time, while the virtual one stands still.
        _, after = await client.get("/health")

    assert before["jobs"]["completed"] == 100 - workers
    assert after["jobs"]["completed"] == 100
    assert trio.current_time() == began + seconds


async def test_ten_jobs_and_a_list(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start()
    for _ in range(10):
        status, job = await client.post("/jobs", {"type": "job-1", "payload": {}})
        assert (status, job["status"]) == (201, "pending")
        assert client.headers["Location"] == f"/jobs/{job['id']}"
    await trio.sleep(5)

    status, page = await client.get("/jobs")

    assert status == 200
    assert [job["status"] for job in page["jobs"]] == ["completed"] * 10
    assert page["next_cursor"] is None


async def test_demo_mode_is_said_aloud(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start()
    status, health = await client.get("/health")
    assert (status, health["status"], health["demo"]) == (200, "ok", True)
    _, ready = await client.get("/readyz?verbose")
    assert any("DEMO MODE" in warning for warning in ready["warnings"])
