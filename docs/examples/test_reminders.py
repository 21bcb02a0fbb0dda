"""Stories about reminders.py, told with the fixture `tq`: days pass in milliseconds."""

from collections.abc import Iterator

import pytest
from reminders import bank, charge, handlers, remind, report

from trioqueue import Handlers
from trioqueue.events import AttemptStarted
from trioqueue.testing import QueueUnderTest


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


@pytest.fixture
def closed_bank() -> Iterator[None]:
    bank.is_open = False
    yield
    bank.is_open = True


async def test_a_reminder_goes_out_after_three_days(tq: QueueUnderTest) -> None:
    await tq.enqueue(remind, {"user": "ann"}, delay="3d")

    job = await tq.assert_enqueued(remind, {"user": "ann"}, run_in="3d")
    await tq.refute_enqueued(charge)
    assert (await tq.drain()).attempts == 0

    await tq.clock.advance("3d")
    assert (await tq.drain()).completed == 1
    assert (await tq.job(job)).result == "reminded ann"


async def test_an_order_is_charged_when_the_bank_opens_again(tq: QueueUnderTest, closed_bank: None) -> None:
    await tq.start()
    job = await tq.enqueue(charge, {"order": 7})
    await tq.clock.advance("1d")
    bank.is_open = True
    job = await tq.finished(job)
    assert job.result == "paid order 7"
    assert len(await tq.attempts(job)) > 20


async def test_the_third_attempt_is_followed_by_a_pause(tq: QueueUnderTest, closed_bank: None) -> None:
    performed = await tq.perform(charge, {"order": 7}, attempt=3)
    assert performed.outcome == "failed"
    assert performed.reason == "ConnectionError: the bank is closed"
    assert (performed.status, performed.next_in) == ("pending", 8)


async def test_a_report_survives_the_death_of_its_node(tq: QueueUnderTest) -> None:
    await tq.start()
    job = await tq.enqueue(report, {"rows": 60})
    await tq.wait_for(AttemptStarted, job=job)
    await tq.clock.advance("10s")

    await tq.kill()
    await tq.start()

    assert (await tq.finished(job)).result == 60
    assert [str(attempt.outcome) for attempt in await tq.attempts(job)] == ["lost", "completed"]


async def test_a_shop_whose_jobs_cannot_be_kept_says_so(tq: QueueUnderTest) -> None:
    tq.faults.fail_next("commit")
    answer = await tq.client.post("/jobs", json={"type": "charge", "payload": {"order": 7}})
    assert answer.status_code == 503
    await tq.refute_enqueued(charge)


def test_a_plain_test_runs_its_story_by_itself(tq: QueueUnderTest) -> None:
    async def story() -> str:
        job = await tq.enqueue(remind, {"user": "bob"}, delay="1w")
        await tq.drain(with_delayed=True)
        return str((await tq.job(job)).result)

    assert tq.run(story) == "reminded bob"
