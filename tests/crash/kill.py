"""Kills the service at random instants under load, starts it again, and counts what was lost: nothing.

    python -m tests.crash.kill --cycles 100 [--seed N] [--host asyncio|trio|serve|asyncio-w2]

See docs/crash-testing.md. Ends with 1 when any promise was broken.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Literal, get_args

from tests.crash.audit import Audit, Kill, Kind, Violation, audit
from tests.crash.load import call, load
from tests.web.hosts import Host, start_host

ROOT = Path(__file__).parent.parent.parent

HostKind = Literal["asyncio", "trio", "serve", "asyncio-w2"]
Ending = Literal["kill", "kill while starting", "kill while draining", "kill one process, then all", "drain"]

READY_SECONDS = 20.0
DRAIN_SECONDS = 120.0

LOAD_SECONDS = 0.7
"""At most so long after it is ready (or was started) a service is ended: about the time of a start."""

ROUND = 100
"""After so many cycles the store is drained and compared with the ledgers, and a new one is begun."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one cycle ends, and how long after the service is ready (or was started)."""

    ending: Ending
    after_seconds: float


def make_plan(random: Random, kind: HostKind) -> Plan:
    endings: dict[Ending, int] = {
        "kill": 70,
        "kill while starting": 10,
        "kill while draining": 10,
        "drain": 10,
    }
    if kind == "asyncio-w2":
        endings["kill one process, then all"] = 70
    (ending,) = random.choices(list(endings), list(endings.values()))
    return Plan(ending, random.uniform(0.0, LOAD_SECONDS))


@dataclass(frozen=True, slots=True)
class Ground:
    """The directory in which everything happens; it outlives every process."""

    directory: Path
    url: str | None = None
    """Of the store. None: a file in this directory."""

    @property
    def store(self) -> Path:
        return self.directory / "jobs.db"

    @property
    def store_url(self) -> str:
        return self.url or f"sqlite:///{self.store}"

    @property
    def nodes(self) -> Path:
        return self.directory / "jobs.db-nodes"

    @property
    def clients(self) -> Path:
        return self.directory / "clients"

    @property
    def handlers(self) -> Path:
        return self.directory / "handlers"

    @contextmanager
    def start(self, kind: HostKind, app: str = "trioqueue.app:app", **env: str) -> Iterator[Host]:
        """The service, as people start it, on this store; whatever is left at the end is killed."""
        settings = {
            "PYTHONPATH": str(ROOT),
            "TRIOQUEUE_STORE": self.store_url,
            "TRIOQUEUE_HANDLERS": "tests.crash.handlers:handlers",
            "CRASH_LEDGER": str(self.handlers),
        }
        with start_host(kind, app, env=settings | env, cwd=self.directory, ready=None) as host:
            yield host


@dataclass(slots=True)
class Course:
    """What was done so far, to this service and its processes."""

    ground: Ground
    kind: HostKind
    ready_seconds: list[float] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What went wrong besides the jobs: it did not get ready, did not drain, ended with an error."""

    def kill(self, host: Host) -> None:
        """SIGKILL for the whole process group."""
        sent_at = time.time()
        host.kill()
        self.kills.append(Kill(sent_at, time.time()))

    def kill_one(self, host: Host, random: Random) -> None:
        """SIGKILL for one worker process; hypercorn then stops the others."""
        if children := host.children():
            now = time.time()
            with suppress(ProcessLookupError):
                os.kill(random.choice(children), signal.SIGKILL)
            self.kills.append(Kill(now, now))


def ask(host: Host, path: str) -> tuple[int, Any]:
    """One GET on a connection of its own."""
    with closing(HTTPConnection("127.0.0.1", host.port, timeout=10)) as connection:
        return call(connection, "GET", path)


def post(host: Host, type: str, key: str, **more: Any) -> str:
    """Post one job on a connection of its own; its id. The payload may have more than a key."""
    with closing(HTTPConnection("127.0.0.1", host.port, timeout=10)) as connection:
        job = {"type": type, "payload": {"key": key, **more}}
        status, answer = call(connection, "POST", "/jobs", job)
        assert status == 201, answer
        return str(answer["id"])


def wait_ready(host: Host, seconds: float = READY_SECONDS) -> bool:
    """Until /readyz answers 200; False when that took too long, or when the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and host.process.poll() is None:
        with suppress(OSError, HTTPException, ValueError):
            if ask(host, "/readyz")[0] == 200:
                return True
        time.sleep(0.01)
    return False


def run_cycle(course: Course, number: int, seed: int) -> None:
    """Start, load, and the end that was drawn."""
    random = Random(f"{seed}/{number}")
    plan = make_plan(random, course.kind)
    started = time.monotonic()
    with course.ground.start(course.kind) as host:
        if plan.ending == "kill while starting":
            time.sleep(plan.after_seconds)
            course.kill(host)
            say(f"cycle {number:4}  {plan.ending} after {plan.after_seconds:.2f} s")
            return
        if not wait_ready(host):
            say(f"cycle {number:4}  not ready")
            course.failures.append(f"cycle {number}: not ready\n{host.output()}")
            course.kill(host)
            return
        ready_seconds = time.monotonic() - started
        course.ready_seconds.append(ready_seconds)
        with load(host.port, course.ground.clients, random, f"{seed}-{number}"):
            time.sleep(plan.after_seconds)
            end(course, host, plan.ending, random)
    say(
        f"cycle {number:4}  ready after {ready_seconds:.2f} s, {plan.ending} after {plan.after_seconds:.2f} s"
    )


def end(course: Course, host: Host, ending: Ending, random: Random) -> None:
    match ending:
        case "drain":
            stop(course, host)
        case "kill while draining":
            host.signal(signal.SIGTERM)
            time.sleep(random.uniform(0.0, 0.5))
            course.kill(host)
        case "kill one process, then all":
            course.kill_one(host, random)
            time.sleep(random.uniform(0.0, 1.0))
            course.kill(host)
        case _:
            course.kill(host)


def stop(course: Course, host: Host) -> None:
    """SIGTERM, as a deploy does it."""
    code = host.stop().code
    if code != 0:
        course.failures.append(f"ended with {code} when it was asked to stop\n{host.output()}")


def drain(course: Course) -> None:
    """Start it once more and wait until nothing is left to do."""
    with course.ground.start(course.kind) as host:
        if not wait_ready(host):
            course.failures.append(f"not ready after the last cycle\n{host.output()}")
            return
        deadline = time.monotonic() + DRAIN_SECONDS
        while not is_drained(host) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not is_drained(host):
            course.failures.append(f"not drained within {DRAIN_SECONDS:.0f} s: {ask(host, '/health')}")
        stop(course, host)


def is_drained(host: Host) -> bool:
    jobs = ask(host, "/health")[1]["jobs"]
    return bool(jobs["pending"] + jobs["processing"] == 0)


def run(cycles: range, seed: int, kind: HostKind, directory: Path) -> tuple[Course, Audit]:
    """These cycles on one store, then the drain and the audit."""
    course = Course(Ground(directory), kind)
    for number in cycles:
        run_cycle(course, number, seed)
        if course.failures:
            break
    drain(course)
    ground = course.ground
    return course, audit(ground.clients, ground.handlers, ground.store, course.kills)


@dataclass(slots=True)
class Tally:
    """What one round came to, or several, a line at a time."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, course: Course, audit: Audit) -> None:
        begun = audit.cut & set(audit.runs.started)
        self.counts.update(
            {
                "times killed": len(course.kills),
                "asked for": len(audit.promises.asked),
                "acknowledged": len(audit.promises.acknowledged),
                "refused while draining": len(audit.promises.refused),
                "kept without an answer": audit.recovered,
                "completed": audit.count("completed"),
                "cancelled": audit.count("cancelled"),
                "dead after three crashes": audit.count("dead"),
                "claims cut by a kill": len(audit.cut),
                "  begun by a handler": len(begun),
                "  finished by a handler": len(audit.cut & audit.runs.finished),
            }
        )
        for name, seconds in {
            "ready again, slowest": course.ready_seconds,
            "taken over, slowest": audit.rescues,
        }.items():
            self.slowest[name] = max([*seconds, self.slowest.get(name, 0.0)])
        self.violations += audit.violations
        self.failures += course.failures

    @property
    def is_clean(self) -> bool:
        return not self.violations and not self.failures

    def lines(self) -> Iterator[str]:
        for name, number in self.counts.items():
            yield f"{name:26}{number}"
        for name, seconds in self.slowest.items():
            yield f"{name:26}{seconds:.2f} s"
        found = Counter(violation.kind for violation in self.violations)
        for kind in get_args(Kind):
            yield f"{kind:26}{found[kind]}"
        yield f"{'other failures':26}{len(self.failures)}"
        for violation in self.violations[:20]:
            yield f"{violation.kind}: {violation.what}"
        yield from self.failures[:5]


def report(course: Course, audit: Audit) -> Iterator[str]:
    """The table of one round."""
    tally = Tally()
    tally.add(course, audit)
    return tally.lines()


def is_clean(course: Course, audit: Audit) -> bool:
    return not audit.violations and not course.failures


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.kill", description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="draws the instants; a new one when left out")
    parser.add_argument("--host", choices=get_args(HostKind), default="asyncio")
    chosen = parser.parse_args(arguments)
    seed: int = SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    started, tally = time.monotonic(), Tally()
    for first in range(1, chosen.cycles + 1, ROUND):
        directory = Path(tempfile.mkdtemp(prefix="trioqueue-crash-"))
        cycles = range(first, min(first + ROUND, chosen.cycles + 1))
        tally.add(*run(cycles, seed, chosen.host, directory))
        if not tally.is_clean:
            break
        shutil.rmtree(directory)
        say(f"cycles {cycles.start} to {cycles.stop - 1}: nothing lost, nothing settled twice")
    seconds = time.monotonic() - started
    say(f"\n{chosen.cycles} cycles, host {chosen.host}, seed {seed}, {seconds:.0f} s")
    for line in tally.lines():
        say(line)
    if tally.is_clean:
        return 0
    again = f"--host {chosen.host} --cycles {chosen.cycles} --seed {seed}"
    say(f"\nBROKEN. Again: {again}. The store and the ledgers are in {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
