"""A file that cannot be written for some seconds costs no job; see docs/outage-testing.md for longer ones."""

from pathlib import Path

import pytest

from tests.crash.audit import Job, Runs
from tests.crash.course import Course, Glance, Limits, check_course, check_handlers, is_clean, report
from tests.crash.roaming import Answer
from tests.crash.shortages import Shortage, possible_shortages, run

SECONDS = 4.0
SLOWEST_SECONDS = 2.0


@pytest.mark.parametrize("shortage", possible_shortages(), ids=lambda shortage: shortage.name)
def test_a_shortage_loses_nothing_and_is_over_when_it_ends(shortage: Shortage, tmp_path: Path) -> None:
    course, result = run(shortage, SECONDS, tmp_path, slowest_seconds=SLOWEST_SECONDS)
    assert is_clean(course, result), "\n".join(report(course, result))
    assert len(result.promises.acknowledged) > 50


LIMITS = Limits(is_total=True, reason="the disk is full")


def test_a_refusal_and_a_probe_must_say_what_is_wrong() -> None:
    vague = Answer("key", 101.0, 0.1, 503, "store-unavailable", "something is wrong", "1")
    course = Course(LIMITS, 1, 100.0, 110.0, [vague], [Glance(101.0, 0, False, "something is wrong")])
    found = [failure for failure in check_course(course, []) if "does not say 'the disk is full'" in failure]
    assert len(found) == 2


def test_a_probe_that_is_green_too_late_is_found() -> None:
    glances = [Glance(101.0, 0, False, "the disk is full"), Glance(116.0, 0, True)]
    course = Course(LIMITS, 1, 100.0, 110.0, [], glances)
    assert "/readyz of node 1 went green after 6.00 s" in list(check_course(course, []))


@pytest.mark.parametrize(("cancel_requested", "failures"), [(True, 0), (False, 1)])
def test_a_handler_that_nobody_cancelled_must_not_be_cut(cancel_requested: bool, failures: int) -> None:
    job = Job("id", "key", "completed", 1, 2, 0, cancel_requested, None)
    runs = Runs(started=[("id", 1)], cancelled={("id", 1)})
    assert len(list(check_handlers(runs, [job]))) == failures
