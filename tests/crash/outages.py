"""Takes the database away under load, gives it back, and counts what was lost: nothing.

    python -m tests.crash.outages [--seconds 60] [--only NAME ...]

See docs/outage-testing.md. Ends with 1 when anything was broken.
"""

import json
import shutil
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import get_args

from tests.crash.audit import (
    Audit,
    Job,
    Kill,
    Kind,
    check_jobs,
    check_rescues,
    read_promises,
    read_runs,
    rescue_seconds,
)
from tests.crash.cluster import ports
from tests.crash.inquiry import Inquiry
from tests.crash.kill import Ground, say
from tests.crash.nodes import Node, start_nodes
from tests.crash.roaming import Answer, roaming_load
from tests.crash.ways import OUTAGES, Outage, open_scene

NODES = 2
PAUSE_SECONDS = 0.05
"""Between two jobs of a client, so that the backlog stays small."""
SLOWEST_SECONDS = 4.0
"""The slow jobs run across the beginning and the end of an outage."""
BEFORE_SECONDS = 3.0
AFTER_SECONDS = 20.0
"""The load goes on for so long at most after an outage: until a job has come and gone, and then a little."""
DRAIN_SECONDS = 120.0
GLANCE_SECONDS = 0.25
"""How often each node is asked whether it is ready."""

ANSWER_SECONDS = 2.0
LOG_LINES = 120


@dataclass(frozen=True, slots=True)
class Glance:
    """What /readyz of one node said; None when nobody answered."""

    at: float
    node: int
    is_ready: bool | None


@dataclass(slots=True)
class Course:
    """What was seen of one outage. Instants are wall time."""

    outage: Outage
    began_at: float = 0.0
    ended_at: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    glances: list[Glance] = field(default_factory=list)
    log_lines: list[int] = field(default_factory=list)
    """Written by each node from the beginning of the outage until the load ended."""
    failures: list[str] = field(default_factory=list)

    @property
    def during(self) -> list[Answer]:
        return [
            answer
            for answer in self.answers
            if answer.asked_at < self.ended_at and self.began_at < answer.asked_at + answer.seconds
        ]

    @property
    def doubtful(self) -> set[str]:
        """Keys of jobs whose clients heard that nobody knows, when the store was away or had just been."""
        return {
            answer.key
            for answer in self.answers
            if answer.is_doubtful
            and self.began_at - ANSWER_SECONDS <= answer.asked_at <= self.ended_at + ANSWER_SECONDS
        }

    @property
    def slowest(self) -> Answer | None:
        return max(self.during, key=lambda answer: answer.seconds, default=None)

    @property
    def red_seconds(self) -> list[float | None]:
        """For each node: from the beginning of the outage until it said that it is not ready."""
        return [self._first(node, False, self.began_at, self.ended_at) for node in range(NODES)]

    @property
    def green_seconds(self) -> list[float | None]:
        """For each node: from the end of the outage until it said that it is ready again."""
        return [self._first(node, True, self.ended_at, float("inf")) for node in range(NODES)]

    def _first(self, node: int, is_ready: bool, since: float, until: float) -> float | None:
        for glance in self.glances:
            if glance.node == node and since <= glance.at < until and glance.is_ready is is_ready:
                return glance.at - since
        return None

    def recovery_seconds(self, jobs: Sequence[Job]) -> float | None:
        """Until the first job that was asked for after the outage was completed."""
        asked = {answer.key for answer in self.answers if answer.asked_at >= self.ended_at}
        ends = [attempt.ended_at for job in jobs if job.key in asked for attempt in job.outcomes("completed")]
        return min(ends) - self.ended_at if ends else None


def run(outage: Outage, seconds: float, directory: Path) -> tuple[Course, Audit]:
    """Load on healthy nodes, the outage, more load, the drain and the audit."""
    course = Course(outage)
    with ExitStack() as stack:
        scene, url = open_scene(stack, outage)
        ground = Ground(directory, url)
        nodes = stack.enter_context(start_nodes(ground, NODES))
        with (
            watch(nodes, course.glances),
            roaming_load(
                lambda: ports(nodes),
                ground.clients,
                Random(outage.name),
                pause_seconds=PAUSE_SECONDS,
                slowest_seconds=SLOWEST_SECONDS,
            ) as load,
        ):
            course.answers = load.answers
            time.sleep(BEFORE_SECONDS)
            before = [len(notable_lines(node)) for node in nodes]
            course.began_at = time.time()
            outage.act(scene, seconds)
            course.ended_at = time.time()
            wait_for_recovery(course, nodes)
            course.log_lines = [
                len(notable_lines(node)) - lines for node, lines in zip(nodes, before, strict=True)
            ]
        for node in nodes:
            if node.has_ended:
                course.failures.append(f"a node ended by itself:\n{node.output[-3000:]}")
        if course.failures:
            return course, Audit(read_promises(ground.clients), read_runs(ground.handlers), [], [], [])
        with closing(Inquiry(ports(nodes))) as inquiry:
            if not inquiry.wait_drained(DRAIN_SECONDS):
                course.failures.append(f"not drained within {DRAIN_SECONDS:.0f} s: {inquiry.counts()}")
            result = audit(course, ground, inquiry)
        for node in nodes:
            if code := node.stop():
                course.failures.append(f"ended with {code} when it was asked to stop\n{node.output[-3000:]}")
    course.failures += check_course(course, result.jobs)
    return course, result


@contextmanager
def watch(nodes: Sequence[Node], glances: list[Glance]) -> Iterator[None]:
    """Ask every node again and again whether it is ready, each from a thread of its own."""
    over = threading.Event()

    def look(number: int, node: Node) -> None:
        while not over.wait(GLANCE_SECONDS):
            asked_at = time.time()
            glances.append(Glance(asked_at, number, node.is_ready()))

    threads = [threading.Thread(target=look, args=place) for place in enumerate(nodes)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def wait_for_recovery(course: Course, nodes: Sequence[Node]) -> None:
    """Until every node is ready and has accepted something since, and then a little longer."""
    deadline = time.monotonic() + AFTER_SECONDS
    while time.monotonic() < deadline:
        accepted = any(
            answer.status == 201 and answer.asked_at >= course.ended_at for answer in list(course.answers)
        )
        if accepted and None not in course.green_seconds:
            break
        if any(node.has_ended for node in nodes):
            return
        time.sleep(0.1)
    time.sleep(SLOWEST_SECONDS)


def notable_lines(node: Node) -> list[str]:
    """The log without what the load itself causes: requests, the failures of flaky jobs, cancelled jobs."""
    return [line for line in node.output.splitlines() if not is_about_the_load(line)]


def is_about_the_load(line: str) -> bool:
    if '] "POST /' in line or '] "GET /' in line:
        return True
    try:
        said = json.loads(line)
    except ValueError:
        return False
    if said.get("event") in ("job cancelled", "job asked to stop", "attempt cancelled"):
        return True
    return said.get("event") == "attempt failed" and "the first attempt fails" in said.get("exception", "")


def audit(course: Course, ground: Ground, inquiry: Inquiry) -> Audit:
    """Compare what clients were promised and what handlers did with what the nodes say in the end."""
    jobs = inquiry.jobs()
    promises, runs = read_promises(ground.clients), read_runs(ground.handlers)
    promises.doubtful = course.doubtful
    rescues = list(rescue_seconds(jobs, [Kill(course.began_at, course.ended_at)]))
    violations = [
        *check_jobs(promises, runs, jobs),
        *check_rescues(rescues, late_seconds=float("inf")),
        *inquiry.check_counts(jobs),
    ]
    return Audit(promises, runs, jobs, [seconds for _, seconds in rescues if seconds is not None], violations)


def check_course(course: Course, jobs: Sequence[Job]) -> Iterator[str]:
    """What must be true besides the jobs."""
    outage, recovery = course.outage, course.recovery_seconds(jobs)
    if recovery is None or recovery > outage.recovery_seconds:
        yield f"recovered after {show(recovery)}, and not within {outage.recovery_seconds:.0f} s"
    for number, lines in enumerate(course.log_lines, 1):
        if lines >= LOG_LINES:
            yield f"node {number} wrote {lines} log lines"
    for answer in course.answers:
        if answer.status not in (None, 201, 503):
            yield f"an answer that nobody expects: {answer}"
        if answer.status == 503 and not (answer.retry_after or "").isdigit():
            yield f"503 without Retry-After: {answer}"
        if answer.status is None and course.ended_at:
            yield f"no answer: {answer}"
    if outage.is_total:
        slow = [answer for answer in course.during if answer.seconds > ANSWER_SECONDS]
        if slow:
            yield f"{len(slow)} answers took longer than {ANSWER_SECONDS:g} s, the first: {slow[0]}"
        if not any(answer.status == 503 for answer in course.during):
            yield "nobody was told that nothing can be stored"
        for number, red in enumerate(course.red_seconds, 1):
            if red is None:
                yield f"/readyz of node {number} did not go red"
    for number, green in enumerate(course.green_seconds, 1):
        if green is None:
            yield f"/readyz of node {number} did not go green again"


def report(course: Course, audit: Audit) -> Iterator[str]:
    """The table of one outage, a line at a time."""
    during = Counter(answer.status for answer in course.during)
    answers = ", ".join(
        f"{number} × {status or 'none'}" for status, number in sorted(during.items(), key=str)
    )
    slowest = course.slowest
    facts: list[tuple[str, object]] = [
        ("answers meanwhile", answers),
        ("slowest answer", f"{slowest.seconds:.2f} s, {slowest.status or 'none'}" if slowest else "none"),
        ("/readyz red after", ", ".join(map(show, course.red_seconds))),
        ("/readyz green after", ", ".join(map(show, course.green_seconds))),
        ("recovered after", show(course.recovery_seconds(audit.jobs))),
        ("log lines of each node", ", ".join(map(str, course.log_lines))),
        ("acknowledged", len(audit.promises.acknowledged)),
        ("kept though refused", audit.doubtful),
        ("completed", audit.count("completed")),
        ("attempts lost", len(audit.cut)),
        ("attempts released", sum(len(job.outcomes("released")) for job in audit.jobs)),
    ]
    found = Counter(violation.kind for violation in audit.violations)
    facts += [(kind, found[kind]) for kind in get_args(Kind) if kind not in ("late", "damaged")]
    for name, value in [*facts, ("other failures", len(course.failures))]:
        yield f"{name:26}{value}"
    for violation in audit.violations[:20]:
        yield f"{violation.kind}: {violation.what}"
    yield from course.failures[:10]


def show(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


def is_clean(course: Course, audit: Audit) -> bool:
    return not audit.violations and not course.failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.outages", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each outage lasts")
    names = [outage.name for outage in OUTAGES]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    chosen = parser.parse_args(arguments)
    broken = []
    for outage in OUTAGES:
        if outage.name not in chosen.only:
            continue
        directory = Path(tempfile.mkdtemp(prefix="trioqueue-outage-"))
        say(f"\n{outage.name}, {chosen.seconds:g} s, through {outage.via}")
        course, result = run(outage, chosen.seconds, directory)
        for line in report(course, result):
            say(line)
        if is_clean(course, result):
            shutil.rmtree(directory)
        else:
            say(f"BROKEN. The ledgers are in {directory}")
            broken.append(outage.name)
    say(f"\nBROKEN: {', '.join(broken)}" if broken else "\nall is well")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
