"""Works for a long time at an even rate, and shows that nothing grows.

    python -m tests.crash.soak --minutes 10 [--rate 100] [--seed N]

See docs/crash-testing.md. Ends with 1 when anything grew, or when a job was lost.
"""

import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random, SystemRandom
from statistics import quantiles

import apsw

from tests.crash.audit import read_promises, read_runs
from tests.crash.crowd import Crowd, crowd
from tests.crash.kill import DRAIN_SECONDS, Ground, is_drained, say, wait_ready
from tests.web.hosts import Host

MIB = 1024 * 1024

WARM_UP_SECONDS = 180.0
SAMPLE_SECONDS = 2.0
RETENTION_SECONDS = 30.0
"""So short that the store soon holds what it will hold for ever."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment: all its processes together."""

    at: float
    """Since the load began."""
    rss: float
    """MiB of memory in use."""
    fds: int
    threads: int
    tasks: int
    """Of Trio; the fewest of several looks, and so are the next."""
    asyncio_tasks: int
    """Of the loop that hosts Trio."""
    wal: float
    """MiB of the write-ahead log."""
    used: float
    """MiB of the database that hold something."""
    store: float
    """MiB of its file, which keeps what has become free and uses it again."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How far the end may lie from the beginning."""

    name: str
    value: Callable[[Sample], float]
    share: float | None = None
    """It may grow by this share of what it was in the beginning,"""
    change: float | None = None
    """or change by this number,"""
    most: float | None = None
    """or be this at most, at any moment."""


LIMITS = [
    Limit("memory, MiB", lambda sample: sample.rss, share=0.03),
    Limit("file descriptors", lambda sample: sample.fds, change=5),
    Limit("threads", lambda sample: sample.threads, change=3),
    Limit("Trio tasks", lambda sample: sample.tasks, change=5),
    Limit("asyncio tasks", lambda sample: sample.asyncio_tasks, change=5),
    Limit("database, MiB", lambda sample: sample.used, share=0.5),
    Limit("its file, MiB", lambda sample: sample.store, share=1.0),
    Limit("write-ahead log, MiB", lambda sample: sample.wal, most=72),
]
"""Connections and idle threads come and go: hence a few more or less. What the database holds goes up and
down with each pruning, and a machine that is busy for a moment leaves a larger file for ever. The log is
cut back to 64 MiB, but only after a transaction that went beyond.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verdict."""

    limit: Limit
    early: float
    late: float
    highest: float
    growth: float
    """From the end of the warm-up to the end, if it grew evenly."""

    @property
    def is_well(self) -> bool:
        match self.limit:
            case Limit(share=float(share)):
                return self.growth < share * self.early
            case Limit(change=int() | float() as change):
                return abs(self.growth) <= change
            case Limit(most=int() | float() as most):
                return self.highest <= most
            case _:
                raise AssertionError(f"{self.limit} limits nothing")

    def __str__(self) -> str:
        limit = self.limit
        if limit.share is not None:
            allowed = f"< {limit.share:.0%}"
        elif limit.change is not None:
            allowed = f"± {limit.change:g}"
        else:
            allowed = f"≤ {limit.most:g}"
        share = f"{self.growth / self.early:+.1%}" if self.early else "-"
        return (
            f"{limit.name:22}{self.early:9.1f}{self.late:9.1f}{self.highest:9.1f}{self.growth:+9.1f}"
            f"{share:>9}{allowed:>8}  {'well' if self.is_well else 'BROKEN'}"
        )


HEADING = f"{'':22}{'early':>9}{'late':>9}{'highest':>9}{'growth':>9}{'':9}{'limit':>8}"


def judge(samples: Sequence[Sample], warm_up_seconds: float) -> list[Finding]:
    """Compare the first and the last third of what came after the warm-up, by their lower quartiles.

    Quartiles, since what comes and goes only adds to what stays, on a busy machine most of the time.
    Two thirds lie between the middles of the two, so what grows evenly has grown by half as much
    again in the whole time.
    """
    steady = [sample for sample in samples if sample.at >= warm_up_seconds]
    third = len(steady) // 3
    if third < 2:
        raise ValueError(f"{len(steady)} samples after the warm-up are too few")
    findings = []
    for limit in LIMITS:
        values = [limit.value(sample) for sample in steady]
        early, late = lower_quartile(values[:third]), lower_quartile(values[-third:])
        findings.append(Finding(limit, early, late, max(values), (late - early) * 1.5))
    return findings


def lower_quartile(values: Sequence[float]) -> float:
    return quantiles(values, n=4)[0]


@dataclass(slots=True)
class Course:
    """What was seen."""

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    """Under load."""
    acknowledged: int = 0
    connections: int = 0
    runs: int = 0
    completed: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, and how often somebody looks."""

    seconds: float
    warm_up_seconds: float = WARM_UP_SECONDS
    sample_seconds: float = SAMPLE_SECONDS
    rate: float = 100.0
    seed: int = 1
    leaking: float = 0.0
    """The share of jobs that leak, to see that it is found."""


def run(plan: Plan, directory: Path) -> Course:
    """The service, the crowd, a sample every few seconds; then the drain, and whether every job was run."""
    course, ground = Course(), Ground(directory)
    tasks = directory / "tasks"
    settings = {"SOAK_TASKS": str(tasks), "TRIOQUEUE_RETENTION": f"{RETENTION_SECONDS:g}s"}
    with ground.start("asyncio", "tests.crash.watched:app", **settings) as host:
        assert wait_ready(host), host.output()
        with crowd(host.port, plan.rate, ground.clients, Random(plan.seed), leaking=plan.leaking) as them:
            watch(plan, course, host, ground.store, tasks)
            write_samples(directory / "samples.csv", course.samples)
            course.acknowledged, course.connections = them.acknowledged, them.connections
        course.failures += check_load(plan, course, them)
        deadline = time.monotonic() + DRAIN_SECONDS
        while not is_drained(host) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not is_drained(host):
            course.failures.append(f"not drained within {DRAIN_SECONDS:.0f} s")
        if code := host.stop().code:
            course.failures.append(f"ended with {code} when it was asked to stop\n{host.output()[-3000:]}")
    course.failures += check_runs(course, ground)
    return course


def watch(plan: Plan, course: Course, host: Host, store: Path, tasks: Path) -> None:
    """Take samples until the time is over."""
    begin = time.monotonic()
    with closing(apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        while (at := time.monotonic() - begin) < plan.seconds:
            if host.process.poll() is not None:
                course.failures.append(f"ended by itself:\n{host.output()[-3000:]}")
                break
            if tasks.exists():
                course.samples.append(take_sample(at, host, store, reader, tasks))
            time.sleep(plan.sample_seconds)
    course.seconds = time.monotonic() - begin


def take_sample(at: float, host: Host, store: Path, reader: apsw.Connection, tasks: Path) -> Sample:
    processes = [Path("/proc") / str(pid) for pid in (host.process.pid, *host.children())]
    status = [read_status(process) for process in processes]
    of_trio, of_asyncio = tasks.read_text().split()
    pages = reader.pragma("page_count") - reader.pragma("freelist_count")
    wal = store.with_name(store.name + "-wal")
    return Sample(
        at=at,
        rss=sum(facts["VmRSS"] for facts in status) / 1024,
        fds=sum(len(list((process / "fd").iterdir())) for process in processes),
        threads=sum(facts["Threads"] for facts in status),
        tasks=int(of_trio),
        asyncio_tasks=int(of_asyncio),
        wal=wal.stat().st_size / MIB if wal.exists() else 0.0,
        used=pages * reader.pragma("page_size") / MIB,
        store=store.stat().st_size / MIB,
    )


def read_status(process: Path) -> dict[str, int]:
    """The numbers of /proc/…/status that we need; memory is in KiB."""
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "Threads:")}


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """For whoever wants to see how something grew."""
    names = [field.name for field in fields(Sample)]
    rows = (",".join(f"{getattr(sample, name):g}" for name in names) for sample in samples)
    path.write_text("\n".join([",".join(names), *rows]) + "\n")


def check_load(plan: Plan, course: Course, them: Crowd) -> Iterator[str]:
    """A service that is asked for less has not been soaked."""
    if course.acknowledged < 0.9 * plan.rate * course.seconds:
        yield f"only {course.acknowledged / course.seconds:.0f} jobs a second were accepted"
    if them.failures:
        yield f"{len(them.failures)} posts were not accepted, the first: {them.failures[0]}"


def check_runs(course: Course, ground: Ground) -> Iterator[str]:
    """The store has forgotten the jobs; the ledgers have not."""
    runs = read_runs(ground.handlers)
    finished = {job_id for job_id, _ in runs.finished}
    course.runs, course.completed = len(runs.started), len(finished)
    lost = set(read_promises(ground.clients).acknowledged.values()) - finished
    if lost:
        yield f"{len(lost)} acknowledged jobs were not finished: {sorted(lost)[:5]}"
    if len(runs.finished) > len(finished):
        yield f"{len(runs.finished) - len(finished)} jobs were finished twice"


def report(course: Course, findings: Sequence[Finding]) -> Iterator[str]:
    """The table, a line at a time."""
    facts = {
        "under load": f"{course.seconds:.0f} s",
        "accepted": course.acknowledged,
        "accepted each second": f"{course.acknowledged / course.seconds:.1f}",
        "connections": course.connections,
        "runs of handlers": course.runs,
        "completed": course.completed,
        "samples": len(course.samples),
        "other failures": len(course.failures),
    }
    for name, value in facts.items():
        yield f"{name:26}{value}"
    yield HEADING
    yield from map(str, findings)
    yield from course.failures[:5]


def is_clean(course: Course, findings: Sequence[Finding]) -> bool:
    return not course.failures and all(finding.is_well for finding in findings)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="at least 4: three are to warm up")
    parser.add_argument("--rate", type=float, default=100.0, help="jobs a second")
    parser.add_argument("--seed", type=int, default=None, help="draws the clients; a new one when left out")
    chosen = parser.parse_args(arguments)
    if chosen.minutes < 4:
        parser.error("three minutes are to warm up: ask for at least 4")
    seed: int = SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    plan = Plan(chosen.minutes * 60, rate=chosen.rate, seed=seed)
    directory = Path(tempfile.mkdtemp(prefix="trioqueue-soak-"))
    course = run(plan, directory)
    findings = judge(course.samples, plan.warm_up_seconds)
    say(f"\n--minutes {chosen.minutes:g} --rate {chosen.rate:g} --seed {seed}")
    for line in report(course, findings):
        say(line)
    if is_clean(course, findings):
        shutil.rmtree(directory)
        return 0
    say(f"\nBROKEN. The store, the ledgers and samples.csv are in {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
