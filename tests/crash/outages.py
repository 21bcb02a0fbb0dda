"""Takes the database away under load, gives it back, and counts what was lost: nothing.

    python -m tests.crash.outages [--seconds 60] [--only NAME ...]

See docs/outage-testing.md. Ends with 1 when anything was broken.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from tests.crash.audit import Audit, Kill, check_jobs, check_rescues, read_promises, read_runs, rescue_seconds
from tests.crash.course import DRAIN_SECONDS, Course, check_course, check_handlers, run_each, weather
from tests.crash.inquiry import Inquiry
from tests.crash.kill import Ground
from tests.crash.nodes import start_nodes
from tests.crash.ways import OUTAGES, Outage, open_scene

NODES = 2


def run(outage: Outage, seconds: float, directory: Path) -> tuple[Course, Audit]:
    """Load on healthy nodes, the outage, more load, the drain and the audit."""
    course = Course(outage.limits, NODES)
    with ExitStack() as stack:
        scene, url = open_scene(stack, outage)
        ground = Ground(directory, url)
        nodes = stack.enter_context(start_nodes(ground, NODES))
        weather(course, nodes, ground, partial(outage.act, scene, seconds), seed=outage.name)
        if course.failures:
            return course, Audit(read_promises(ground.clients), read_runs(ground.handlers), [], [], [])
        with closing(Inquiry([node.port for node in nodes])) as inquiry:
            if not inquiry.wait_drained(DRAIN_SECONDS):
                course.failures.append(f"not drained within {DRAIN_SECONDS:.0f} s: {inquiry.counts()}")
            result = audit(course, ground, inquiry)
        for node in nodes:
            if code := node.stop():
                course.failures.append(f"ended with {code} when it was asked to stop\n{node.output[-3000:]}")
    course.failures += [*check_course(course, result.jobs), *check_handlers(result.runs, result.jobs)]
    return course, result


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.outages", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each outage lasts")
    outages = {outage.name: outage for outage in OUTAGES}
    parser.add_argument(
        "--only", nargs="+", choices=outages, default=list(outages), metavar="NAME", help=", ".join(outages)
    )
    chosen = parser.parse_args(arguments)
    return run_each(
        chosen.only,
        "trioqueue-outage-",
        lambda name, directory: run(outages[name], chosen.seconds, directory),
    )


if __name__ == "__main__":
    sys.exit(main())
