"""A database that goes away for some seconds costs no job; see docs/outage-testing.md for longer ones."""

from pathlib import Path

import pytest

from tests.crash.audit import Attempt, Job
from tests.crash.course import Course, Glance, check_course, is_about_the_load, is_clean, report
from tests.crash.outages import NODES, run
from tests.crash.roaming import Answer
from tests.crash.ways import OUTAGES, Outage

SECONDS = 6.0
HERE = [outage for outage in OUTAGES if outage.via != "pgbouncer"]
"""PgBouncer is a system's package, and machines that run the tests may have none."""


@pytest.mark.parametrize("outage", HERE, ids=lambda outage: outage.name)
def test_an_outage_loses_nothing_and_is_over_when_it_ends(outage: Outage, tmp_path: Path) -> None:
    course, result = run(outage, SECONDS, tmp_path)
    assert is_clean(course, result), "\n".join(report(course, result))
    assert len(result.promises.acknowledged) > 50


TOTAL = next(outage.limits for outage in OUTAGES if outage.limits.is_total)
BEGAN, ENDED = 100.0, 110.0


def course(*answers: Answer, log_lines: int = 0, red: bool = True, green: bool = True) -> Course:
    """An outage from second 100 to 110, in which two clients got what they should get, and these answers."""
    expected = [
        Answer("refused", 101.0, 0.1, 503, "store-unavailable", "no answer", "1"),
        Answer("afterwards", 111.0, 0.1, 201),
    ]
    glances = [Glance(101.0, node, not red) for node in range(NODES)]
    glances += [Glance(112.0, node, green) for node in range(NODES)]
    return Course(TOTAL, NODES, BEGAN, ENDED, [*expected, *answers], glances, [log_lines] * NODES)


def completed(at: float) -> list[Job]:
    attempt = Attempt(1, "completed", "node", 111.0, at)
    return [Job("id", "afterwards", "completed", 1, 1, 0, False, None, [attempt])]


def test_an_outage_that_went_well_passes() -> None:
    assert list(check_course(course(), completed(112.0))) == []


@pytest.mark.parametrize(
    ("broken", "jobs", "words"),
    [
        (
            course(Answer("slow", 102.0, 2.5, 503, "store-unavailable", "no answer", "1")),
            completed(112.0),
            "longer than",
        ),
        (
            course(Answer("hung", 99.0, 2.5, 503, "store-unavailable", "no answer", "1")),
            completed(112.0),
            "longer than",
        ),
        (course(Answer("silent", 102.0, 0.1, None)), completed(112.0), "no answer"),
        (course(Answer("wrong", 102.0, 0.1, 500, "internal")), completed(112.0), "nobody expects"),
        (
            course(Answer("lost", 102.0, 0.1, 503, "store-unavailable", "no answer")),
            completed(112.0),
            "Retry-After",
        ),
        (course(), completed(116.0), "recovered after 6.00 s"),
        (course(), [], "recovered after never"),
        (course(log_lines=120), completed(112.0), "120 log lines"),
        (course(red=False), completed(112.0), "did not go red"),
        (course(green=False), completed(112.0), "did not go green again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_outage_that_went_badly_is_found(broken: Course, jobs: list[Job], words: str) -> None:
    failures = list(check_course(broken, jobs))
    assert failures
    assert all(words in failure for failure in failures)


def test_refusals_are_doubtful_only_around_the_outage_and_when_they_say_so() -> None:
    before = Answer("before", 90.0, 0.1, 503, "store-unavailable", "no answer", "1")
    sure = Answer("sure", 102.0, 0.1, 503, "store-unavailable", "connection refused", "1")
    assert course(before, sure).doubtful == {"refused"}


@pytest.mark.parametrize(
    ("line", "about"),
    [
        ('[time] [1] [INFO] 127.0.0.1:1 - - [time] "POST /jobs 1.1" 503 1 "-" "-"', True),
        ('{"event": "job cancelled", "job_id": "id"}', True),
        ('{"event": "attempt failed", "exception": "ConnectionError: the first attempt fails"}', True),
        ('{"event": "attempt failed", "exception": "ConnectionError: the server is away"}', False),
        ('{"event": "store not available, trying again"}', False),
        ("Traceback (most recent call last):", False),
    ],
)
def test_only_lines_about_the_load_are_not_counted(line: str, about: bool) -> None:
    assert is_about_the_load(line) is about
