"""The routes as a client sees them: every answer is JSON, every mistake is told with its place."""

import json
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.story.conftest import Client, StartClient, start, store_url
from trioqueue import Context, Handlers
from trioqueue.clock import EPOCH_OF_TESTS
from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import NodeId

__all__ = ["start", "store_url"]  # fixtures


def example_handlers() -> Handlers:
    handlers = Handlers()

    @handlers.handler("resize", timeout_seconds=30, max_attempts=3)
    async def resize(ctx: Context, path: str, width: int = 200) -> int:
        await trio.sleep(1)
        return width

    @handlers.handler("endless")
    async def endless(ctx: Context) -> None:
        await trio.sleep_forever()

    return handlers


async def test_every_optional_field_is_kept(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(example_handlers())
    _, parent = await client.post("/jobs", {"type": "resize", "payload": {"path": "p"}})
    asked = {
        "type": "resize",
        "payload": {"path": "a.png", "width": 3},
        "queue": "images",
        "priority": -5,
        "run_at": "2031-01-01T00:00:00Z",
        "max_attempts": 9,
        "timeout_seconds": 1.5,
        "deadline_at": "2032-01-01T00:00:00Z",
        "unique_key": "a.png",
        "tags": ["vip", "batch-7"],
        "parent_id": parent["id"],
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    }
    status, job = await client.post("/jobs", asked)

    assert status == 201
    assert {name: job[name] for name in asked} == asked
    assert job["root_id"] == parent["id"]
    assert (await client.get(f"/jobs/{job['id']}"))[1] == {**job, "attempts": []}


async def test_a_handlers_defaults_apply(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(example_handlers())
    _, job = await client.post("/jobs", {"type": "resize", "payload": {"path": "a"}})
    assert (job["timeout_seconds"], job["max_attempts"], job["queue"]) == (30.0, 3, "default")
    job = await client.finished(job["id"])
    assert (job["status"], job["result"], len(job["attempts"])) == ("completed", 200, 1)
    assert job["attempts"][0]["outcome"] == "completed"


BAD_JOBS: list[tuple[Any, int, str, str | None]] = [
    ({}, 422, "invalid-job", "/type"),
    ([], 422, "invalid-job", ""),
    ("x", 422, "invalid-job", ""),
    ({"type": 3}, 422, "invalid-job", "/type"),
    ({"type": "a b"}, 422, "invalid-job", "/type"),
    ({"type": "nope"}, 422, "unknown-type", "/type"),
    ({"type": "resize"}, 422, "invalid-job", "/payload/path"),
    ({"type": "resize", "payload": {"path": 3}}, 422, "invalid-job", "/payload/path"),
    ({"type": "resize", "payload": {"path": "a", "widht": 1}}, 422, "invalid-job", "/payload/widht"),
    ({"type": "resize", "payload": {"path": "a"}, "colour": 1}, 422, "invalid-job", "/colour"),
    ({"type": "endless", "priority": "high"}, 422, "invalid-job", "/priority"),
    ({"type": "endless", "priority": 10**9}, 422, "invalid-job", "/priority"),
    ({"type": "endless", "queue": "a b"}, 422, "invalid-job", "/queue"),
    ({"type": "endless", "run_at": "tomorrow"}, 422, "invalid-job", "/run_at"),
    ({"type": "endless", "run_at": "2030-01-01T00:00:00"}, 422, "invalid-job", "/run_at"),
    ({"type": "endless", "run_at": "9999-12-31T23:59:59-12:00"}, 422, "invalid-job", "/run_at"),
    (
        {"type": "endless", "run_at": "2030-01-01T00:00:00Z", "delay_seconds": 1},
        422,
        "invalid-job",
        "/delay_seconds",
    ),
    ({"type": "endless", "delay_seconds": -1}, 422, "invalid-job", "/delay_seconds"),
    ({"type": "endless", "max_attempts": 0}, 422, "invalid-job", "/max_attempts"),
    ({"type": "endless", "timeout_seconds": 0}, 422, "invalid-job", "/timeout_seconds"),
    ({"type": "endless", "tags": ["x"] * 21}, 422, "invalid-job", "/tags"),
    ({"type": "endless", "tags": ["a", "x" * 65]}, 422, "invalid-job", "/tags/1"),
    ({"type": "endless", "unique_key": ""}, 422, "invalid-job", "/unique_key"),
    ({"type": "endless", "parent_id": "me"}, 422, "invalid-job", "/parent_id"),
    (
        {"type": "endless", "parent_id": "0" * 8 + "-0000-7000-8000-" + "0" * 12},
        422,
        "invalid-job",
        "/parent_id",
    ),
    ({"type": "endless", "deadline_at": "2020-01-01T00:00:00Z"}, 422, "invalid-job", "/deadline_at"),
    ({"type": "endless", "traceparent": "x"}, 422, "invalid-job", "/traceparent"),
]


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_bad_job_is_refused_with_a_pointer(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(example_handlers())
    for body, status, slug, pointer in BAD_JOBS:
        got, problem = await client.call("POST", "/jobs", data=json.dumps(body), headers=JSON)
        assert (got, problem["type"]) == (status, f"/problems/{slug}"), (body, problem)
        assert problem["errors"][0]["pointer"] == pointer, (body, problem)
        assert client.headers["Content-Type"] == "application/problem+json"


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"type": NaN}', b'{"type": "a", "type": "b"}', b"\xff", b"[" * 100_000], ids=repr
)
@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_malformed_json_is_a_400(start: StartClient, autojump_clock: MockClock, text: bytes) -> None:
    client = await start(example_handlers())
    status, problem = await client.call("POST", "/jobs", data=text, headers=JSON)
    assert (status, problem["type"]) == (400, "/problems/malformed-json")


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_the_door_knows_sizes_types_methods_and_paths(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start(max_payload_bytes=1000)
    big = {"type": "a", "payload": "x" * 2000}
    assert (await client.post("/jobs", big))[0] == 413
    status, _ = await client.call("POST", "/jobs", data=b"<a/>", headers={"Content-Type": "text/xml"})
    assert status == 415
    assert (await client.call("PUT", "/jobs"))[0] == 405
    assert client.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert (await client.get("/nowhere"))[0] == 404
    assert (await client.get("/jobs/not-an-id"))[0] == 404
    assert (await client.get("/jobs/00000000-0000-7000-8000-000000000000"))[0] == 404


async def test_a_unique_key_gives_the_job_that_is_there(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start(example_handlers())
    body = {"type": "resize", "payload": {"path": "a"}, "unique_key": "a"}
    first_status, first = await client.post("/jobs", body)
    second_status, second = await client.post("/jobs", body)
    assert (first_status, second_status) == (201, 200)
    assert second["id"] == first["id"]
    await client.finished(first["id"])
    assert (await client.post("/jobs", body))[0] == 201


async def test_filters_and_pages(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(worker_count=0)
    ids = []
    for number in range(25):
        body = {"type": f"t{number % 2}", "queue": f"q{number % 5}", "tags": [f"n{number % 3}"]}
        ids.append((await client.post("/jobs", body))[1]["id"])

    seen: list[str] = []
    path = "/jobs?limit=10"
    while True:
        _, page = await client.get(path)
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        path = f"/jobs?limit=10&cursor={page['next_cursor']}"

    assert seen == list(reversed(ids))
    for query, expected in [
        ("type=t0", 13),
        ("queue=q4", 5),
        ("tag=n0", 9),
        ("type=t0&queue=q0", 3),
        ("status=pending", 25),
        ("status=dead", 0),
        ("type=unknown", 0),
    ]:
        assert len((await client.get(f"/jobs?{query}"))[1]["jobs"]) == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=1_000",
        "limit=%D9%A1",
        "limit=501",
        "limit=%C2%B2",
        "status=done",
        "cursor=x",
        "cursor=%00",
        "tag=%00",
        "type=a%00b",
        "queue=%00",
        "colour=red",
        "tag=a&tag=b",
    ],
)
@pytest.mark.parametrize("store_url", ["memory", "sqlite"], indirect=True)
async def test_a_bad_filter_is_a_400(start: StartClient, autojump_clock: MockClock, query: str) -> None:
    client = await start()
    status, problem = await client.get(f"/jobs?{query}")
    assert (status, problem["type"]) == (400, "/problems/bad-filter")
    assert problem["parameter"] == query.split("=")[0]


async def test_cancel_tells_the_truth(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(example_handlers())
    _, running = await client.post("/jobs", {"type": "endless"})
    _, waiting = await client.post("/jobs", {"type": "endless", "delay_seconds": 60})
    _, done = await client.post("/jobs", {"type": "resize", "payload": {"path": "a"}})
    await trio.sleep(2)

    status, receipt = await client.post(f"/jobs/{running['id']}/cancel?wait=5")
    assert (status, receipt["confirmed"], receipt["job"]["status"]) == (200, True, "cancelled")
    assert receipt["after_ms"] < 1000
    again, receipt = await client.post(f"/jobs/{running['id']}/cancel")
    assert (again, receipt["confirmed"]) == (200, True)

    status, receipt = await client.post(f"/jobs/{waiting['id']}/cancel")
    assert (status, receipt["job"]["status"]) == (200, "cancelled")

    status, problem = await client.post(f"/jobs/{done['id']}/cancel")
    assert (status, problem["job_status"]) == (409, "completed")
    assert (await client.post("/jobs/00000000-0000-7000-8000-000000000000/cancel"))[0] == 404
    assert (await client.post(f"/jobs/{done['id']}/cancel?wait=forever"))[0] == 400


async def test_a_cancelled_job_is_redriven_and_one_that_waits_is_not(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start(example_handlers())
    _, job = await client.post("/jobs", {"type": "resize", "payload": {"path": "a"}, "delay_seconds": 60})
    await client.post(f"/jobs/{job['id']}/cancel")

    status, again = await client.post(f"/jobs/{job['id']}/redrive")
    assert (status, again["status"], again["reason"]) == (200, "pending", None)
    assert (await client.finished(job["id"]))["status"] == "completed"

    status, problem = await client.post(f"/jobs/{job['id']}/redrive")
    assert (status, problem["type"], problem["job_status"]) == (409, "/problems/wrong-status", "completed")
    assert (await client.post("/jobs/00000000-0000-7000-8000-000000000000/redrive"))[0] == 404
    assert (await client.post(f"/jobs/{job['id']}/redrive?force=1"))[0] == 400


async def test_what_stands_against_a_redrive_is_told(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(example_handlers())
    asked = {"type": "endless", "delay_seconds": 60, "unique_key": "k"}
    _, job = await client.post("/jobs", asked)
    await client.post(f"/jobs/{job['id']}/cancel")
    await client.post("/jobs", asked)

    status, problem = await client.post(f"/jobs/{job['id']}/redrive")

    assert (status, problem["type"]) == (409, "/problems/redrive-refused")
    assert "unique_key" in problem["detail"]


async def test_many_jobs_are_counted_first_and_then_redriven(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start(example_handlers())
    for n in range(4):
        asked = {"type": "endless", "delay_seconds": 60, "queue": "a" if n else "b", "tags": ["t"]}
        _, job = await client.post("/jobs", asked)
        await client.post(f"/jobs/{job['id']}/cancel")
    for _ in range(2):
        asked = {"type": "endless", "delay_seconds": 60, "queue": "a", "unique_key": "k"}
        _, job = await client.post("/jobs", asked)
        await client.post(f"/jobs/{job['id']}/cancel")

    wanted = {"status": "cancelled", "type": "endless", "queue": "a"}
    _, receipt = await client.post("/jobs/redrive", {**wanted, "dry_run": True})
    assert receipt == {"matched": 5, "redriven": 0, "skipped": 0}
    _, receipt = await client.post("/jobs/redrive", wanted)
    assert receipt == {"matched": 5, "redriven": 4, "skipped": 1}
    _, receipt = await client.post("/jobs/redrive", {"status": "cancelled", "tag": "t"})
    assert receipt == {"matched": 1, "redriven": 1, "skipped": 0}
    _, receipt = await client.post("/jobs/redrive", {"status": "dead"})
    assert receipt == {"matched": 0, "redriven": 0, "skipped": 0}


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "status"),
        ([], "status"),
        ({"status": "completed"}, "status"),
        ({"status": "deed"}, "status"),
        ({"status": "dead", "tags": ["a"]}, "tags"),
        ({"status": "dead", "dry_run": 1}, "dry_run"),
    ],
)
async def test_a_redrive_of_many_says_exactly_which(
    start: StartClient, autojump_clock: MockClock, body: object, parameter: str
) -> None:
    client = await start(example_handlers())
    status, problem = await client.post("/jobs/redrive", body)
    assert (status, problem["parameter"]) == (400, parameter)


async def test_cancel_without_waiting_names_what_unwinds(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start(example_handlers())
    _, job = await client.post("/jobs", {"type": "endless"})
    await trio.sleep(1)
    status, receipt = await client.post(f"/jobs/{job['id']}/cancel")
    assert (status, receipt["confirmed"]) == (202, False)
    assert receipt["unwinding"]["type"] == "endless"
    assert (await client.finished(job["id"]))["status"] == "cancelled"


async def test_a_draining_node_refuses_new_jobs_and_shows_the_others(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start()
    _, job = await client.post("/jobs", {"type": "a"})
    client.node.close_intake()

    status, problem = await client.post("/jobs", {"type": "a"})

    assert (status, problem["type"]) == (503, "/problems/draining")
    assert int(client.headers["Retry-After"]) >= 1
    assert (await client.get(f"/jobs/{job['id']}"))[0] == 200
    assert (await client.get("/readyz"))[0] == 503
    assert (await client.get("/livez"))[0] == 200


async def test_nodes_show_what_they_run(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(example_handlers(), worker_count=2)
    _, job = await client.post("/jobs", {"type": "endless", "queue": "slow"})
    await trio.sleep(1)
    await client.post(f"/jobs/{job['id']}/cancel")
    _, job = await client.post("/jobs", {"type": "endless"})
    await trio.sleep(1)
    status, body = await client.get("/nodes")

    _, job = await client.get(f"/jobs/{job['id']}")
    assert status == 200
    [node] = body["nodes"]
    assert set(node) == {
        *("id", "workers", "types", "started_at", "seen_at", "silent_seconds", "stopping", "running")
    }
    assert (node["id"], node["workers"], node["types"]) == (job["node"], 2, ["endless", "resize"])
    assert (node["started_at"][-1], node["seen_at"][-1], node["stopping"]) == ("Z", "Z", False)
    assert 0 <= node["silent_seconds"] < 6
    [running] = node["running"]
    assert running == {
        "job_id": job["id"],
        "type": "endless",
        "queue": "default",
        "epoch": 1,
        "started_at": job["started_at"],
        "lease_until": job["lease_until"],
        "cancel_requested": False,
    }


async def test_a_node_of_demo_mode_runs_any_type(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start()
    [node] = (await client.get("/nodes"))[1]["nodes"]
    assert node["types"] is None


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_store_that_is_away_is_a_503_with_the_reason(
    start: StartClient, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start()
    await away(client, monkeypatch)

    status, problem = await client.post("/jobs", {"type": "a"})
    assert (status, problem["type"]) == (503, "/problems/store-unavailable")
    assert "disk full" in problem["detail"]
    assert client.headers["Retry-After"] == "1"
    assert (await client.get("/readyz"))[0] == 503  # whoever asks next learns it, too

    await trio.sleep(20)
    status, health = await client.get("/health")
    assert (status, health["failing"]["store"]) == (503, "disk full")
    assert (await client.get("/readyz"))[0] == 503
    assert (await client.get("/livez"))[0] == 200

    monkeypatch.undo()
    await trio.sleep(2)
    assert (await client.get("/readyz"))[0] == 200


async def away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the store's writes fail."""

    async def fail(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("disk full")

    store = client.node.service._store
    for write in ("enqueue", "claim", "renew", "settle", "beat", "rescue", "prune"):
        monkeypatch.setattr(store, write, fail)


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_health_is_red_when_work_waits_and_nobody_claims(
    start: StartClient, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher lives and the store answers, but no claim ever comes back."""
    client = await start()

    async def claim_nothing(**_: object) -> list[object]:
        await trio.lowlevel.checkpoint()
        return []

    monkeypatch.setattr(client.node.service._store, "claim", claim_nothing)
    await client.post("/jobs", {"type": "a"})
    assert (await client.get("/readyz"))[0] == 200
    await trio.sleep(30)
    status, ready = await client.get("/readyz")
    assert status == 503
    assert "nobody claims" in ready["failing"]["claiming"]


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_health_is_red_when_a_loop_is_wedged(
    start: StartClient, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start(worker_count=0)

    async def hang(**_: object) -> None:
        await trio.sleep_forever()

    store = client.node.service._store
    monkeypatch.setattr(store, "rescue", hang)
    await client.post("/jobs", {"type": "a"})
    await store.claim(node=NodeId("ghost"), types=None, limit=1, lease_seconds=5)
    await trio.sleep(120)
    status, live = await client.get("/livez")
    assert status == 503
    assert list(live["failing"]) == ["loop rescue"]


async def test_times_are_rfc_3339(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start()
    _, job = await client.post("/jobs", {"type": "a", "delay_seconds": 90})
    assert job["created_at"].startswith(EPOCH_OF_TESTS.isoformat()[:16])
    assert job["created_at"].endswith("Z")
    due = EPOCH_OF_TESTS + timedelta(seconds=90)
    assert job["run_at"].startswith(due.isoformat()[:18])
