"""Stories about first_handlers.py, told in virtual time: minutes pass in milliseconds."""

import trio
from first_handlers import handlers
from trio.testing import MockClock

from trioqueue.app import create_app


async def test_three_cups_take_three_minutes(autojump_clock: MockClock) -> None:
    app = create_app(handlers, store="memory:", grace_seconds=0)
    async with app.test_app() as running:
        client = running.test_client()
        response = await client.post("/jobs", json={"type": "brew", "payload": {"tea": "sencha", "cups": 3}})
        assert response.status_code == 201
        job = await response.get_json()

        await trio.sleep(90)
        job = await (await client.get(f"/jobs/{job['id']}")).get_json()
        assert (job["status"], job["progress"]) == ("processing", {"done": 1, "total": 3})

        await trio.sleep(120)
        job = await (await client.get(f"/jobs/{job['id']}")).get_json()
        assert (job["status"], job["result"]) == ("completed", "3 × sencha")


async def test_eleven_cups_run_out_of_time_five_times(autojump_clock: MockClock) -> None:
    app = create_app(handlers, store="memory:", grace_seconds=0)
    async with app.test_app() as running:
        client = running.test_client()
        response = await client.post("/jobs", json={"type": "brew", "payload": {"tea": "assam", "cups": 11}})
        job = await response.get_json()

        await trio.sleep(3600)
        job = await (await client.get(f"/jobs/{job['id']}")).get_json()
        assert (job["status"], job["reason"]) == ("dead", "timed out after 600 s")
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["timed_out"] * 5


async def test_a_payload_that_does_not_fit_is_refused_at_the_door(autojump_clock: MockClock) -> None:
    app = create_app(handlers, store="memory:", grace_seconds=0)
    async with app.test_app() as running:
        client = running.test_client()
        response = await client.post(
            "/jobs", json={"type": "brew", "payload": {"tea": "sencha", "cups": "3"}}
        )
        problem = await response.get_json()
        assert response.status_code == 422
        assert problem["errors"] == [{"pointer": "/payload/cups", "detail": "expected `int`, got `str`"}]
