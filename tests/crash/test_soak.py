"""The soak sees what grows, in figures and in the real service; see docs/crash-testing.md for a long one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.soak import Plan, Sample, judge, report, run

SECONDS = 6.0
WARM_UP_SECONDS = 2.0
SAMPLE_SECONDS = 0.25
RATE = 40
"""Jobs a second that any machine can do beside other tests."""

STEADY = Sample(0.0, rss=100.0, fds=40, threads=9, tasks=30, asyncio_tasks=29, wal=16.0, used=4.0, store=5.0)


def soak(directory: Path, leaking: float) -> tuple[dict[str, bool], str]:
    """A short one: what is well and what is not, and the table."""
    course = run(Plan(SECONDS, WARM_UP_SECONDS, SAMPLE_SECONDS, RATE, leaking=leaking), directory)
    findings = judge(course.samples, WARM_UP_SECONDS)
    table = "\n".join(report(course, findings))
    assert not course.failures, table
    return {finding.limit.name: finding.is_well for finding in findings}, table


def test_a_healthy_service_grows_by_nothing(tmp_path: Path) -> None:
    """But for the memory and the store, which settle later than that."""
    well, table = soak(tmp_path, 0.0)
    broken = {name for name, is_well in well.items() if not is_well}
    assert broken <= {"memory, MiB", "database, MiB", "its file, MiB"}, table


def test_a_service_that_leaks_is_caught(tmp_path: Path) -> None:
    well, table = soak(tmp_path, 0.3)
    for name in ("memory, MiB", "file descriptors", "threads", "Trio tasks"):
        assert not well[name], table


def series(change: Callable[[Sample], Sample]) -> list[Sample]:
    """Ten minutes with noise; `change` gets a sample and what it is to be changed by."""
    noise = [0, 1, -1, 2, 0, -2, 1]
    return [
        change(replace(STEADY, at=2.0 * number, fds=40 + noise[number % 7], tasks=30 - noise[number % 7]))
        for number in range(300)
    ]


def broken(samples: list[Sample], warm_up_seconds: float = 180.0) -> list[str]:
    return [finding.limit.name for finding in judge(samples, warm_up_seconds) if not finding.is_well]


def test_noise_and_a_warm_up_are_no_growth() -> None:
    assert broken(series(lambda sample: sample)) == []
    assert broken(series(lambda sample: replace(sample, rss=min(50 + sample.at, 230.0), fds=40))) == []
    assert broken(series(lambda sample: replace(sample, rss=130 if sample.at == 400 else 100))) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda sample: replace(sample, rss=100 + 0.008 * sample.at), "memory, MiB"),
        (lambda sample: replace(sample, rss=100 + 4 * (sample.at > 400)), "memory, MiB"),
        (lambda sample: replace(sample, fds=sample.fds + int(sample.at / 50)), "file descriptors"),
        (lambda sample: replace(sample, fds=sample.fds - int(sample.at / 50)), "file descriptors"),
        (lambda sample: replace(sample, threads=9 + int(sample.at / 50)), "threads"),
        (lambda sample: replace(sample, tasks=sample.tasks + int(sample.at / 50)), "Trio tasks"),
        (lambda sample: replace(sample, asyncio_tasks=29 + int(sample.at / 50)), "asyncio tasks"),
        (lambda sample: replace(sample, used=4 + sample.at / 100), "database, MiB"),
        (lambda sample: replace(sample, store=5 + sample.at / 20), "its file, MiB"),
        (lambda sample: replace(sample, wal=80.0 if sample.at == 400 else 16.0), "write-ahead log, MiB"),
    ],
)
def test_growth_of_every_kind_is_found(change: Callable[[Sample], Sample], name: str) -> None:
    assert broken(series(change)) == [name]


def test_too_few_samples_prove_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        judge([STEADY], 0.0)
