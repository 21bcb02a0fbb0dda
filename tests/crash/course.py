"""What is seen of an outage under load: answers, readiness, log lines; and what must be true of them."""

import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import get_args

from tests.crash.audit import Audit, Job, Kind, Runs
from tests.crash.kill import Ground, say
from tests.crash.nodes import Node
from tests.crash.roaming import Answer, roaming_load

PAUSE_SECONDS = 0.05
"""Between two jobs of a client, so that the backlog stays small."""
SLOWEST_SECONDS = 4.0
BEFORE = 0.75
"""An outage begins when the load has gone on for this share of the slowest job."""
AFTER_SECONDS = 20.0
"""The load goes on for so long at most after an outage, until all is well, and then for the slowest job."""
DRAIN_SECONDS = 120.0
GLANCE_SECONDS = 0.25
"""How often each node is asked whether it is ready."""

ANSWER_SECONDS = 2.0
LOG_LINES = 120


@dataclass(frozen=True, slots=True)
class Limits:
    """What must be true of an outage."""

    recovery_seconds: float = 5.0
    """So long after its end, at most, a new job is done and every node is ready."""
    is_total: bool = False
    """Nothing can be stored meanwhile: clients are told so in time, and nodes are not ready."""
    reason: str = ""
    """Words that clients and probes must be told."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What /readyz of one node said; None when nobody answered."""

    at: float
    node: int
    is_ready: bool | None
    said: str = ""


@dataclass(slots=True)
class Course:
    """What was seen of one outage. Instants are wall time."""

    limits: Limits
    nodes: int
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
        return [self._first(node, False, self.began_at, self.ended_at) for node in range(self.nodes)]

    @property
    def green_seconds(self) -> list[float | None]:
        """For each node: from the end of the outage until it said that it is ready again."""
        return [self._first(node, True, self.ended_at, float("inf")) for node in range(self.nodes)]

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


def weather(
    course: Course,
    nodes: Sequence[Node],
    ground: Ground,
    act: Callable[[], None],
    *,
    seed: str,
    slowest_seconds: float = SLOWEST_SECONDS,
) -> None:
    """Load on healthy nodes, the outage, more load; `act` breaks something, waits and mends it.

    The slow jobs run across the beginning and the end of the outage.
    """
    with (
        watch(nodes, course.glances),
        roaming_load(
            lambda: [node.port for node in nodes],
            ground.clients,
            Random(seed),
            pause_seconds=PAUSE_SECONDS,
            slowest_seconds=slowest_seconds,
        ) as load,
    ):
        course.answers = load.answers
        time.sleep(slowest_seconds * BEFORE)
        before = [len(notable_lines(node)) for node in nodes]
        course.began_at = time.time()
        act()
        course.ended_at = time.time()
        wait_for_recovery(course, nodes)
        time.sleep(slowest_seconds)
        course.log_lines = [
            len(notable_lines(node)) - lines for node, lines in zip(nodes, before, strict=True)
        ]
    for node in nodes:
        if node.has_ended:
            course.failures.append(f"a node ended by itself:\n{node.output[-3000:]}")


@contextmanager
def watch(nodes: Sequence[Node], glances: list[Glance]) -> Iterator[None]:
    """Ask every node again and again whether it is ready, each from a thread of its own."""
    over = threading.Event()

    def look(number: int, node: Node) -> None:
        while not over.wait(GLANCE_SECONDS):
            asked_at = time.time()
            glances.append(Glance(asked_at, number, *node.readiness()))

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
    """Until every node is ready and has accepted something since."""
    deadline = time.monotonic() + AFTER_SECONDS
    while time.monotonic() < deadline:
        accepted = any(
            answer.status == 201 and answer.asked_at >= course.ended_at for answer in list(course.answers)
        )
        if accepted and None not in course.green_seconds:
            break
        if any(node.has_ended for node in nodes):
            break
        time.sleep(0.1)


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


def check_course(course: Course, jobs: Sequence[Job]) -> Iterator[str]:
    """What must be true besides the jobs."""
    limits, recovery = course.limits, course.recovery_seconds(jobs)
    if recovery is None or recovery > limits.recovery_seconds:
        yield f"recovered after {show(recovery)}, and not within {limits.recovery_seconds:.0f} s"
    for number, lines in enumerate(course.log_lines, 1):
        if lines >= LOG_LINES:
            yield f"node {number} wrote {lines} log lines"
    for answer in course.answers:
        if answer.status not in (None, 201, 503):
            yield f"an answer that nobody expects: {answer}"
        if answer.status == 503 and not (answer.retry_after or "").isdigit():
            yield f"503 without Retry-After: {answer}"
        if answer.status == 503 and limits.reason not in answer.detail:
            yield f"503 does not say {limits.reason!r}: {answer}"
        if answer.status is None and course.ended_at:
            yield f"no answer: {answer}"
    if limits.is_total:
        slow = [answer for answer in course.during if answer.seconds > ANSWER_SECONDS]
        if slow:
            yield f"{len(slow)} answers took longer than {ANSWER_SECONDS:g} s, the first: {slow[0]}"
        if not any(answer.status == 503 for answer in course.during):
            yield "nobody was told that nothing can be stored"
        for number, red in enumerate(course.red_seconds, 1):
            if red is None:
                yield f"/readyz of node {number} did not go red"
        for glance in course.glances:
            if glance.is_ready is False and limits.reason not in glance.said:
                yield f"/readyz of node {glance.node + 1} does not say {limits.reason!r}: {glance.said}"
    for number, green in enumerate(course.green_seconds, 1):
        if green is None:
            yield f"/readyz of node {number} did not go green again"
        elif green > limits.recovery_seconds:
            yield f"/readyz of node {number} went green after {show(green)}"


def check_handlers(runs: Runs, jobs: Sequence[Job]) -> Iterator[str]:
    """Nobody's lease ends while a handler of this load runs: only who cancels a job may stop it."""
    asked = {job.id for job in jobs if job.cancel_requested}
    for job_id, epoch in sorted(runs.cancelled):
        if job_id not in asked:
            yield f"the handler of {job_id} was cancelled under epoch {epoch}, and its lease had not ended"


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


def run_each(names: Sequence[str], prefix: str, run: Callable[[str, Path], tuple[Course, Audit]]) -> int:
    """Every one of them in a directory of its own, and its table; the exit code."""
    broken = []
    for name in names:
        directory = Path(tempfile.mkdtemp(prefix=prefix))
        say(f"\n{name}")
        course, result = run(name, directory)
        for line in report(course, result):
            say(line)
        if is_clean(course, result):
            shutil.rmtree(directory)
        else:
            say(f"BROKEN. The ledgers are in {directory}")
            broken.append(name)
    say(f"\nBROKEN: {', '.join(broken)}" if broken else "\nall is well")
    return 1 if broken else 0
