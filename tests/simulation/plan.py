"""What one seed is like: how many nodes, which work, which trouble, and how much of each.

Every seed draws its own rates, zero among them: faults that are never absent hide what only happens
without them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

NEVER = math.inf

KINDS: Mapping[str, float] = {
    "quick": 40,
    "nap": 6,
    "sleep": 10,
    "long": 1.5,
    "progress": 5,
    "fail": 2,
    "flaky": 6,
    "wild": 2,
    "overrun": 3,
    "stubborn": 3,
    "plain": 8,
    "poison": 0.25,
}
"""The types of the jobs, and how often each is asked for. See handlers.py."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The shape of a run and its rates. Rates of faults are those of one call."""

    seed: str
    nodes: int
    seconds: float
    """How long everything may fail, before the world heals."""
    workers: int
    capacity: int
    lease_seconds: float
    grace_seconds: float
    poll_seconds: float
    retention_seconds: float
    deaths_known: bool
    """The nodes share a machine: a death is known at once. Otherwise only expired leases tell."""

    wishes_per_second: float
    """New jobs, while there are some."""
    burst: float
    """The chance that a wish brings a crowd of others with it."""
    unique: float
    delayed: float
    deadlines: float
    cancels: float
    kinds: Mapping[str, float]

    fails_before: float
    fails_after: float
    hangs: float
    busy: float
    dies_before: float
    dies_after: float
    breaks: float
    """The write itself breaks off, below the store: before the commit, and as often after it."""
    slow: float
    """The chance that a call takes time at all."""
    slow_seconds: float

    crash_every: float
    """Seconds between two power cuts of one node, on average."""
    pause_every: float
    partition_every: float
    outage_every: float
    """Seconds between two times at which nobody reaches the store, on average."""
    deploy_every: float
    step_every: float
    """Seconds between two steps of one node's clock, on average."""

    hints_lost: float
    hints_late: float
    hints_twice: float
    clock_offset: float
    """How wrong the nodes' clocks are from the start, in seconds."""
    clock_drift: float


def draw(seed: str, *, node_hours: float, focus: str | None = None) -> Plan:
    """The plan of a seed; `focus` names one of `FOCUSES`, which narrows it."""
    random = Random(f"plan {seed}")
    pick = random.choice
    nodes = pick([1, 2, 2, 3, 3, 4, 5, 6, 7])
    lease_seconds = pick([2.0, 5.0, 5.0, 10.0, 10.0, 30.0, 60.0])
    workers = pick([1, 2, 3, 4, 8])
    plan = Plan(
        seed=seed,
        nodes=nodes,
        seconds=0.0,
        workers=workers,
        capacity=pick([1, 4, 20]),
        lease_seconds=lease_seconds,
        grace_seconds=pick([0.0, 2.0, 10.0, 25.0]),
        poll_seconds=pick([0.5, 1.0, 2.0, 5.0]),
        retention_seconds=pick([30.0, 120.0, 86_400.0]),
        deaths_known=pick([True, False]),
        wishes_per_second=pick([0.05, 0.12, 0.25]) * nodes,
        burst=pick([0.0, 0.01, 0.05]),
        unique=pick([0.0, 0.1, 0.5]),
        delayed=pick([0.0, 0.1, 0.3]),
        deadlines=pick([0.0, 0.05, 0.2]),
        cancels=pick([0.0, 0.05, 0.2]),
        kinds=_some_kinds(random),
        fails_before=pick([0.0, 0.0005, 0.003, 0.01, 0.03]),
        fails_after=pick([0.0, 0.001, 0.01, 0.03, 0.06]),
        hangs=pick([0.0, 0.0, 0.0005, 0.002, 0.005]),
        busy=pick([0.0, 0.0, 0.02, 0.1]),
        dies_before=pick([0.0, 0.0, 0.0003, 0.001]),
        dies_after=pick([0.0, 0.0, 0.0005, 0.002]),
        breaks=pick([0.0, 0.0, 0.001, 0.005]),
        slow=pick([0.0, 0.0, 0.05, 0.3]),
        slow_seconds=pick([0.005, 0.05, 0.5]),
        crash_every=pick([NEVER, 600.0, 240.0, 90.0, 45.0]),
        pause_every=pick([NEVER, NEVER, 300.0, 100.0, 40.0]),
        partition_every=pick([NEVER, NEVER, 300.0, 120.0]),
        outage_every=pick([NEVER, NEVER, 600.0, 200.0]),
        deploy_every=pick([NEVER, NEVER, 300.0, 60.0]),
        step_every=pick([NEVER, 120.0, 30.0]),
        hints_lost=pick([0.0, 0.1, 1.0]),
        hints_late=pick([0.0, 0.1, 0.5]),
        hints_twice=pick([0.0, 0.1]),
        clock_offset=pick([0.0, 1.0, 60.0, 300.0]),
        clock_drift=pick([0.0, 0.0, 1e-4, 1e-2]),
    )
    if focus is not None:
        plan = replace(plan, **FOCUSES[focus])
    return replace(plan, seconds=3600 * node_hours / plan.nodes)


def _some_kinds(random: Random) -> Mapping[str, float]:
    """All kinds of work, or a few of them and those more often."""
    if random.random() < 0.6:
        return KINDS
    kinds = random.sample(sorted(KINDS), 4)
    return {kind: weight for kind, weight in KINDS.items() if kind == "quick" or kind in kinds}


CALM: dict[str, Any] = {
    "fails_before": 0.0,
    "fails_after": 0.0,
    "hangs": 0.0,
    "busy": 0.0,
    "dies_before": 0.0,
    "dies_after": 0.0,
    "breaks": 0.0,
    "slow": 0.0,
    "crash_every": NEVER,
    "pause_every": NEVER,
    "partition_every": NEVER,
    "outage_every": NEVER,
    "deploy_every": NEVER,
    "step_every": NEVER,
    "clock_offset": 0.0,
    "clock_drift": 0.0,
    "hints_lost": 0.0,
}

SLOW_WORK = {"quick": 3, "sleep": 6, "long": 4, "stubborn": 2, "progress": 3}

FOCUSES: dict[str, dict[str, Any]] = {
    "calm": CALM,
    "crashes": {**CALM, "nodes": 3, "crash_every": 30.0, "dies_before": 0.002, "dies_after": 0.003},
    "zombies": {
        **CALM,
        "nodes": 3,
        "workers": 4,
        "lease_seconds": 2.0,
        "deaths_known": False,
        "pause_every": 8.0,
        "partition_every": 60.0,
        "kinds": SLOW_WORK,
    },
    "store": {
        **CALM,
        "nodes": 3,
        "fails_before": 0.02,
        "fails_after": 0.05,
        "hangs": 0.005,
        "breaks": 0.02,
        "busy": 0.05,
        "outage_every": 120.0,
        "slow": 0.3,
        "slow_seconds": 0.5,
    },
    "clocks": {**CALM, "clock_offset": 300.0, "clock_drift": 1e-2, "step_every": 20.0, "delayed": 0.5},
    "deploys": {**CALM, "nodes": 3, "deploy_every": 20.0, "workers": 1, "capacity": 20, "burst": 0.1},
    "unique": {**CALM, "nodes": 3, "unique": 0.8, "crash_every": 60.0, "fails_after": 0.02},
    "cancels": {**CALM, "nodes": 2, "cancels": 0.6, "slow": 0.3, "slow_seconds": 0.05, "kinds": SLOW_WORK},
}
"""Plans with one kind of trouble and much of it: for looking at one rule, or for one kind of mistake."""
