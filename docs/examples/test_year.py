"""A year of a thousand reminders and a day of retries, on a real file: twice the same story."""

from pathlib import Path

import pytest
import trio
from reminders import bank, handlers
from trio.testing import MockClock

from trioqueue import Handlers
from trioqueue.app import create_app
from trioqueue.testing import QueueUnderTest

REMINDERS = 1000
APART_SECONDS = 365 * 86_400 / REMINDERS


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


async def closed_for_a_day() -> None:
    bank.is_open = False
    await trio.sleep(86_400)
    bank.is_open = True


async def test_a_year_with_tq(tq: QueueUnderTest, nursery: trio.Nursery) -> None:
    for number in range(REMINDERS):
        await tq.enqueue("remind", {"user": f"user {number}"}, delay=number * APART_SECONDS)
    order = await tq.enqueue("charge", {"order": 7})
    nursery.start_soon(closed_for_a_day)

    done = await tq.drain(with_delayed=True)

    assert done.by_type["remind"].completed == REMINDERS
    assert (await tq.job(order)).result == "paid order 7"
    assert done.by_type["charge"].failures > 20
    assert (tq.clock.now().year, tq.clock.now().month) == (2030, 12)


async def test_a_year_with_autojump_clock_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    app = create_app(handlers, store=f"sqlite:///{tmp_path}/jobs.db", retention="400d", log_level="error")
    async with app.test_app() as running:
        client = running.test_client()
        for number in range(REMINDERS):
            job = {"type": "remind", "payload": {"user": f"user {number}"}}
            answer = await client.post("/jobs", json={**job, "delay_seconds": number * APART_SECONDS})
            assert answer.status_code == 201
        answer = await client.post("/jobs", json={"type": "charge", "payload": {"order": 7}})
        order = (await answer.get_json())["id"]
        nursery.start_soon(closed_for_a_day)

        await trio.sleep(366 * 86_400)

        health = await (await client.get("/health")).get_json()
        assert health["jobs"]["completed"] == REMINDERS + 1
        charged = await (await client.get(f"/jobs/{order}")).get_json()
        assert charged["result"] == "paid order 7"
        assert len(charged["attempts"]) > 20
