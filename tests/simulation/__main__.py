"""Simulate from the command line: many seeds and their figures, or one seed and its story."""

import argparse
import sys

from tests.simulation.plan import FOCUSES
from tests.simulation.report import add_up
from tests.simulation.runs import missing, run_seeds, tell_failure
from tests.simulation.simulate import simulate

MOST_FAILURES = 5


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds; 100")
    parser.add_argument("--first", type=int, default=0, help="the first of them; 0")
    parser.add_argument("--hours", type=float, default=1.0, help="node-hours of each seed; 1")
    parser.add_argument("--processes", type=int, default=2, help="2")
    parser.add_argument("--focus", choices=sorted(FOCUSES), help="one kind of trouble, and much of it")
    parser.add_argument("--seed", help="replay this one, and print what happens")
    parser.add_argument("--marks", action="store_true", help="print how often everything happened")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, options.hours, options.focus)
    return run_many(options)


def replay(seed: str, node_hours: float, focus: str | None) -> int:
    report = simulate(seed, node_hours=node_hours, focus=focus, tell=say)
    say(f"\nseed {seed}, trace {report.trace_hash}")
    say("\n".join(report.lines()))
    for found in report.violations:
        say(f"{found.at:.6f} {found.invariant}: {found.detail}")
    return 1 if report.violations else 0


def run_many(options: argparse.Namespace) -> int:
    seeds = range(options.first, options.first + options.seeds)
    reports, failures = [], 0
    for report in run_seeds(
        seeds, node_hours=options.hours, focus=options.focus, processes=options.processes
    ):
        reports.append(report)
        if report.violations:
            failures += 1
            if failures <= MOST_FAILURES:
                say(tell_failure(report, node_hours=options.hours, focus=options.focus) + "\n")
        elif sys.stderr.isatty():
            sys.stderr.write(f"{len(reports)}/{options.seeds}\r")
    total = add_up(reports)
    say("\n".join(total.lines()))
    if options.marks:
        say("\n".join(f"  {name:44}{count:>10,}" for name, count in sorted(total.marks.items())))
    absent = [] if options.focus else missing(total.marks)
    for mark in absent:
        say(f"did not happen, so that nothing is known about it: {mark}")
    return 1 if failures or absent else 0


if __name__ == "__main__":
    sys.exit(main())
