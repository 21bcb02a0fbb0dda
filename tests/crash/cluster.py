"""Kills a random one of several nodes each second, starts it again, and counts what was lost: nothing.

    python -m tests.crash.cluster --jobs 20000 [--nodes 3] [--seed N] [--lease-seconds 2] [--pauses 0.2]
    python -m tests.crash.cluster --kills 500 --nodes 2

See docs/outage-testing.md. Ends with 1 when any promise was broken.
"""

import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random, SystemRandom
from typing import get_args

from tests.crash.audit import (
    Audit,
    Kill,
    Kind,
    Runs,
    check_jobs,
    check_rescues,
    read_promises,
    read_runs,
    rescue_seconds,
)
from tests.crash.audit import Job as AuditedJob
from tests.crash.inquiry import Inquiry
from tests.crash.kill import Ground, say, wait_ready
from tests.crash.nodes import Node, start_nodes
from tests.crash.roaming import Load, roaming_load
from tests.postgres.server import start_server

KILL_SECONDS = 1.0
AT_WORK = 0.8
"""When kills are counted, this share of them waits until the node is ready again, and then at most"""
WORK_SECONDS = 0.5
"""so long: on a busy machine most kills would hit nodes that have only begun to start."""
JOBS = 20_000
PAUSE_SECONDS = 0.005
"""Between two jobs of a client when kills are counted and not jobs, so that the drain stays short."""
PAUSED_LEASES = 2.0
"""How many leases a pause is long."""
DRAIN_SECONDS = 180.0
STALL_SECONDS = 120.0
"""Without one more accepted job, something is broken for good."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done, and how often."""

    jobs: int
    """So many must be accepted,"""
    kills: int = 0
    """and so many nodes killed or paused, before it ends."""
    nodes: int = 3
    lease_seconds: float = 2.0
    pauses: float = 0.0
    """The share of nodes that are not killed, but paused for longer than their lease."""
    seed: int = 1

    @property
    def pause_seconds(self) -> float:
        """Of each client, between two jobs."""
        return PAUSE_SECONDS if self.kills else 0.0

    @property
    def takeover_seconds(self) -> float:
        """The job of a killed node must run again within this time. Of two nodes both may be starting."""
        return self.lease_seconds + (6.0 if self.lease_seconds <= 5 and self.nodes > 2 else 10.0)

    def __str__(self) -> str:
        return (
            f"--jobs {self.jobs} --kills {self.kills} --nodes {self.nodes} "
            f"--lease-seconds {self.lease_seconds:g} --pauses {self.pauses:g} --seed {self.seed}"
        )


@dataclass(slots=True)
class Course:
    """What was done so far, to which nodes."""

    ground: Ground
    plan: Plan
    kills: list[Kill] = field(default_factory=list)
    pauses: list[Kill] = field(default_factory=list)
    """They cut attempts as kills do, but the sleepers wake up."""
    doubtful: set[str] = field(default_factory=set)
    """Keys of jobs that a node refused when it woke up, without having seen its database's answer."""
    begun_late: int = 0
    """Attempts that a sleeper began although another node had begun the next one: an allowed overlap."""
    accepted_per_second: float = 0.0
    drain_seconds: float = 0.0
    takeovers: list[float] = field(default_factory=list)
    """For each attempt that was cut: seconds from the kill until the job was claimed again."""
    failures: list[str] = field(default_factory=list)
    """What went wrong besides the jobs: a node ended by itself, did not get ready, did not drain."""


def run(ground: Ground, plan: Plan) -> tuple[Course, Audit]:
    """Load with kills until enough jobs were accepted, then the drain and the audit."""
    random, course = Random(plan.seed), Course(ground, plan)
    with start_nodes(ground, plan.nodes, TRIOQUEUE_LEASE_SECONDS=str(plan.lease_seconds)) as nodes:
        begin = time.monotonic()
        with roaming_load(
            lambda: ports(nodes), ground.clients, random, pause_seconds=plan.pause_seconds
        ) as load:
            break_under_load(course, nodes, load, random)
        course.accepted_per_second = load.acknowledged / (time.monotonic() - begin)
        if plan.pauses:
            course.doubtful = {answer.key for answer in load.answers if answer.is_doubtful}
        revive(course, nodes)
        for node in nodes:
            if not wait_ready(node.host):
                course.failures.append(f"not ready after the last kill\n{node.output[-3000:]}")
        with closing(Inquiry(ports(nodes))) as inquiry:
            begin = time.monotonic()
            if not inquiry.wait_drained(DRAIN_SECONDS):
                course.failures.append(f"not drained within {DRAIN_SECONDS:.0f} s: {inquiry.counts()}")
            course.drain_seconds = time.monotonic() - begin
            result = audit(course, inquiry)
        for node in nodes:
            if code := node.stop():
                course.failures.append(f"ended with {code} when it was asked to stop\n{node.output[-3000:]}")
    return course, result


def ports(nodes: Sequence[Node]) -> list[int]:
    return [node.port for node in nodes]


def break_under_load(course: Course, nodes: Sequence[Node], load: Load, random: Random) -> None:
    """One node each second, whatever it is doing. A killed one is started again at once."""
    plan, paused = course.plan, dict[int, float]()
    seen, seen_at = 0, time.monotonic()
    while load.acknowledged < plan.jobs or len(course.kills) + len(course.pauses) < plan.kills:
        load.stopping.wait(KILL_SECONDS)
        revive(course, nodes)
        resume(course, nodes, paused, until=time.time())
        number = random.randrange(len(nodes))
        if plan.kills and random.random() < AT_WORK and wait_ready(nodes[number].host):
            load.stopping.wait(random.uniform(0.0, WORK_SECONDS))
        pauses = random.random() < plan.pauses
        say(
            f"{'pause' if pauses else 'kill':5} node {number + 1}, after {len(course.kills)} kills, "
            f"{load.acknowledged} jobs accepted"
        )
        if pauses and number not in paused:
            nodes[number].pause()
            paused[number] = time.time()
        elif not pauses:
            kill = nodes[number].kill()
            cut_at = paused.pop(number, kill.sent_at)  # a sleeper does not come back
            course.kills.append(replace(kill, sent_at=cut_at))
            nodes[number].start()
        if load.acknowledged > seen:
            seen, seen_at = load.acknowledged, time.monotonic()
        if time.monotonic() - seen_at > STALL_SECONDS:
            course.failures.append(f"no job was accepted for {STALL_SECONDS:.0f} s")
            break
    resume(course, nodes, paused, until=float("inf"))


def resume(course: Course, nodes: Sequence[Node], paused: dict[int, float], *, until: float) -> None:
    """Wake the nodes that have slept through their leases."""
    for number, paused_at in list(paused.items()):
        if paused_at + course.plan.lease_seconds * PAUSED_LEASES < until:
            nodes[number].resume()
            course.pauses.append(Kill(paused_at, time.time(), nodes[number].pid))
            del paused[number]


def revive(course: Course, nodes: Sequence[Node]) -> None:
    """A node that ended by itself is a failure, unless somebody else got its port meanwhile."""
    for node in nodes:
        if node.has_ended:
            output = node.host.output()
            if "address already in use" not in output.lower():
                course.failures.append(f"ended by itself: {output[-3000:]}")
            node.close()
            node.start()


def audit(course: Course, inquiry: Inquiry) -> Audit:
    """Compare what clients were promised and what handlers did with what the nodes say in the end."""
    ground, jobs = course.ground, inquiry.jobs()
    promises, runs = read_promises(ground.clients), read_runs(ground.handlers)
    promises.doubtful = course.doubtful
    pass_over_sleepers(course, runs, jobs)
    cuts = [*course.kills, *course.pauses]
    rescues = list(rescue_seconds(jobs, cuts))
    course.takeovers = list(takeover_seconds(jobs, cuts))
    violations = [
        *check_jobs(promises, runs, jobs),
        *check_rescues(rescues, late_seconds=course.plan.takeover_seconds),
        *inquiry.check_counts(jobs),
    ]
    late = [seconds for seconds in course.takeovers if seconds > course.plan.takeover_seconds]
    if late:
        course.failures.append(f"jobs that ran again too late: {len(late)}, the last after {max(late):.1f} s")
    return Audit(promises, runs, jobs, [seconds for _, seconds in rescues if seconds is not None], violations)


def pass_over_sleepers(course: Course, runs: Runs, jobs: Sequence[AuditedJob]) -> None:
    """Their attempts may overlap with those that took over, and so may begin after them."""
    asleep = {
        (job.id, attempt.epoch)
        for job in jobs
        for attempt in job.outcomes("lost")
        if any(pause.explains(attempt) for pause in course.pauses)
    }
    highest: dict[str, int] = {}
    for job_id, epoch in runs.started:
        course.begun_late += epoch < highest.get(job_id, 0)
        highest[job_id] = max(epoch, highest.get(job_id, 0))
    runs.started = [run for run in runs.started if run not in asleep]


def takeover_seconds(jobs: Sequence[AuditedJob], kills: Sequence[Kill]) -> Iterator[float]:
    """From each kill that cut an attempt until the job's next attempt began."""
    for job in jobs:
        for lost, following in pairwise(job.attempts):
            kill = next((kill for kill in kills if lost.outcome == "lost" and kill.explains(lost)), None)
            if kill is not None:
                yield following.started_at - kill.sent_at


def report(course: Course, audit: Audit) -> Iterator[str]:
    """The final table, a line at a time."""
    facts: list[tuple[str, object]] = [
        ("nodes killed", len(course.kills)),
        ("nodes paused", len(course.pauses)),
        ("asked for", len(audit.promises.asked)),
        ("acknowledged", len(audit.promises.acknowledged)),
        ("accepted each second", f"{course.accepted_per_second:.0f}"),
        ("refused", len(audit.promises.refused)),
        ("kept without an answer", audit.recovered),
        ("kept though refused", audit.doubtful),
        ("completed", audit.count("completed")),
        ("cancelled", audit.count("cancelled")),
        ("dead after three crashes", audit.count("dead")),
        ("claims cut by a kill", len(audit.cut)),
        ("  begun by a handler", len(audit.cut & set(audit.runs.started))),
        ("  finished by a handler", len(audit.cut & audit.runs.finished)),
        ("  begun too late", course.begun_late),
        ("rescued, slowest", f"{max(audit.rescues, default=0.0):.2f} s after the kill"),
        ("ran again, slowest", f"{max(course.takeovers, default=0.0):.2f} s after the kill"),
        ("drained after", f"{course.drain_seconds:.1f} s"),
    ]
    found = Counter(violation.kind for violation in audit.violations)
    facts += [(kind, found[kind]) for kind in get_args(Kind) if kind != "damaged"]
    for name, value in [*facts, ("other failures", len(course.failures))]:
        yield f"{name:26}{value}"
    for violation in audit.violations[:20]:
        yield f"{violation.kind}: {violation.what}"
    yield from course.failures[:5]


def is_clean(course: Course, audit: Audit) -> bool:
    return not audit.violations and not course.failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.cluster", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--jobs", type=int, default=None, help=f"kill until so many were accepted; {JOBS} without --kills"
    )
    parser.add_argument("--kills", type=int, default=0, help="and until nodes were killed so many times")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--seed", type=int, default=None, help="draws nodes and jobs; a new one when left out"
    )
    parser.add_argument("--lease-seconds", type=float, default=2.0)
    parser.add_argument("--pauses", type=float, default=0.0, help="this share is paused and not killed")
    chosen = vars(parser.parse_args(arguments))
    if chosen["seed"] is None:
        chosen["seed"] = SystemRandom().randrange(10**6)
    if chosen["jobs"] is None:
        chosen["jobs"] = 0 if chosen["kills"] else JOBS
    plan = Plan(**chosen)
    directory = Path(tempfile.mkdtemp(prefix="trioqueue-cluster-"))
    started = time.monotonic()
    with start_server(settings={"max_connections": "200"}) as server:
        course, result = run(Ground(directory, server.create_database("jobs")), plan)
    say(f"\n{plan}, {time.monotonic() - started:.0f} s")
    for line in report(course, result):
        say(line)
    if is_clean(course, result):
        shutil.rmtree(directory)
        return 0
    say(f"\nBROKEN. Again: {plan}. The ledgers are in {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
