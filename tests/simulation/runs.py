"""Many seeds, in as many processes as are wanted, and what must have happened in all of them together."""

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.report import Report
from tests.simulation.simulate import simulate

WRITES = ("enqueue", "claim", "renew", "settle", "progress", "cancel", "rescue", "expire", "beat", "prune")

REQUIRED: tuple[str, ...] = (
    *(f"{call} fails {when}" for call in WRITES for when in ("before", "after")),
    *(
        f"{call} hangs {when}"
        for call in ("claim", "renew", "settle", "enqueue")
        for when in ("before", "after")
    ),
    *(f"{call} out of reach" for call in ("claim", "renew", "settle", "enqueue", "rescue", "beat")),
    *(f"busy {call}" for call in ("enqueue", "renew", "settle", "cancel")),
    *(f"crash {how}" for how in ("at rest", "before a commit", "after a commit", "between two steps")),
    *("broken off before a commit", "broken off after a commit"),
    *(f"attempt {outcome}" for outcome in ("completed", "failed", "timed_out", "cancelled", "snoozed")),
    *(f"attempt {outcome}" for outcome in ("released", "released by rescue", "lost by rescue")),
    *(f"hint {how}" for how in ("lost", "late", "twice")),
    *("paused", "paused for longer than a lease", "outage", "slow", "very slow"),
    *("clock set forward", "clock set back", "client: too late by the node's clock"),
    *("client: Gone", "client: Draining", "client: cancel confirmed", "enqueued: there already"),
    *("claimed after a crash", "dead: crashed", "dead: otherwise", "deadline passed", "crash by a handler"),
    *("renewal said cancel", "renewal said lost", "settled too late", "outcome dropped"),
    *("pending to cancelled", "processing to cancelled", "completed before it could be cancelled"),
    *("ended and left nothing", "ended and left claims", "node ended without a store", "told twice to stop"),
    *("release fails after", "pruned"),
)
"""Every kind of fault and every rare branch. A run in which one of them did not happen proves too little."""


def run_seeds(
    seeds: Iterable[int], *, node_hours: float, focus: str | None = None, processes: int = 1
) -> Iterator[Report]:
    """The reports, each as soon as it is there."""
    if processes == 1:
        for seed in seeds:
            yield simulate(seed, node_hours=node_hours, focus=focus)
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=fresh) as pool:
        futures = [pool.submit(simulate, seed, node_hours=node_hours, focus=focus) for seed in seeds]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def missing(marks: Counter[str]) -> list[str]:
    """What should have happened at least once, and did not."""
    return [mark for mark in REQUIRED if not marks[mark]]


def replay_command(seed: str, *, node_hours: float, focus: str | None) -> str:
    focused = f" --focus {focus}" if focus else ""
    return f"python -m tests.simulation --seed {seed} --hours {node_hours:g}{focused}"


def tell_failure(report: Report, *, node_hours: float, focus: str | None = None, lines: int = 60) -> str:
    """What was violated, what came before, and how to see it again."""
    return "\n".join(
        [
            f"seed {report.seed}: {len(report.violations)} violations",
            *(f"  {found.at:.6f} {found.invariant}: {found.detail}" for found in report.violations[:5]),
            "the last of what happened:",
            *(f"  {line}" for line in report.trace_tail[-lines:]),
            f"again: {replay_command(report.seed, node_hours=node_hours, focus=focus)}",
        ]
    )
