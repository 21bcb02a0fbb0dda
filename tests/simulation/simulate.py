"""One seed from its beginning to its end: trouble, then peace, then a look at what has become of it all."""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import trio

from tests.simulation import kernel
from tests.simulation.chaos import Chaos
from tests.simulation.clients import Clients
from tests.simulation.plan import Plan, draw
from tests.simulation.port import LONGEST_HANG_SECONDS
from tests.simulation.report import Report
from tests.simulation.trace import Trace
from tests.simulation.world import World, outcomes

CONVERGENCE_SECONDS = 600
"""When nothing fails any more, everything has ended within ten minutes."""

LOOK_SECONDS = 2.0
COMPARE_EVERY = 60
"""Looks between two comparisons with the file."""

DISPOSAL_SECONDS = 10_000.0


def simulate(
    seed: int | str,
    *,
    node_hours: float = 1.0,
    focus: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Run one seed in this process; the report says which invariants were violated, if any.

    `focus` is one of `plan.FOCUSES`. `tell` is called with each line of the trace.
    """
    plan = draw(str(seed), node_hours=node_hours, focus=focus)
    trace = Trace(tell)
    started = time.process_time()
    with _directory() as directory, redirect_stderr(_Nowhere()):  # nodes configure a log of their own
        report = kernel.run(lambda: _live(plan, directory / "jobs.db", trace), str(seed))
    report.cpu_seconds = time.process_time() - started
    report.marks = trace.marks
    report.trace_hash = trace.hash
    report.trace_tail = list(trace.tail)
    return report


async def _live(plan: Plan, path: Path, trace: Trace) -> Report:
    async with trio.open_nursery() as nursery:
        world = World(plan, path, trace, nursery)
        with world.observer.watching():
            with world.scope:
                await _everything_happens(world)
            await _dispose(world)
        nursery.cancel_scope.cancel()
    world.report.jobs = len(world.observer.jobs) + len(world.observer.deleted)
    return world.report


async def _everything_happens(world: World) -> None:
    """Safety first, then liveness."""
    for place in range(world.plan.nodes):
        world.nursery.start_soon(world.inhabit, place)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, world)
        with trio.move_on_after(world.plan.seconds):
            async with trio.open_nursery() as trouble:
                trouble.start_soon(Chaos(world).run)
                trouble.start_soon(Clients(world).run)
        world.heal()
        await _converge(world)
        await _stop_all(world)
        nursery.cancel_scope.cancel()
    world.compare()
    _settle_up(world)


async def _watch(world: World) -> None:
    """Look now and then at what no commit shows."""
    looks = 0
    while True:
        await trio.sleep(LOOK_SECONDS)
        world.check()
        looks += 1
        if looks % COMPARE_EVERY == 0:
            world.compare()


async def _converge(world: World) -> None:
    """I12: without faults, and with healthy nodes, every job comes to its end."""
    await trio.sleep(2 * LONGEST_HANG_SECONDS)  # what still hangs comes to its end
    for _ in range(CONVERGENCE_SECONDS):
        if not world.observer.unfinished:
            return
        await trio.sleep(1.0)
    left = [history for history in world.observer.jobs.values() if not history.row.is_final]
    for history in left[:5]:
        world.violate("i12_convergence", f"{history.row} after {outcomes(history)}")


async def _stop_all(world: World) -> None:
    """A deploy of everything, with nothing to do: all of it is gone within seconds."""
    world.closing = True
    machines = [machine for machine in world.places if machine is not None and not machine.down.is_set()]
    for machine in machines:
        machine.stop()
    with trio.move_on_after(world.plan.grace_seconds + 5) as patience:
        for machine in machines:
            await machine.down.wait()
    if patience.cancelled_caught:
        slow = [machine.id for machine in machines if not machine.down.is_set()]
        world.violate("an idle node stops at once", f"{slow} did not")


def _settle_up(world: World) -> None:
    """I6, I10: what was promised to clients is so."""
    observer = world.observer
    for job_id in sorted(world.ledger.acknowledged):
        if job_id not in observer.by_id and job_id not in observer.deleted:
            world.violate("i6_kept_until_retention", f"{job_id} was acknowledged, and is lost")
    for job_id in sorted(world.ledger.cancelled):
        row = observer.by_id[job_id].row if job_id in observer.by_id else observer.deleted[job_id]
        if row.status != "cancelled":
            world.violate("i10_cancelled_stays_cancelled", f"confirmed to a client, and is {row}")


async def _dispose(world: World) -> None:
    """Let every task that is left find its machine dead. Nothing of it can be seen any more."""
    world.closing = True
    machines = list(world.all_machines)
    with trio.move_on_after(DISPOSAL_SECONDS) as patience:
        for machine in machines:
            if not machine.dead:
                machine.lose_power()
            machine.wreck()
            if machine.node is not None:
                machine.node.cut()
        for machine in machines:
            if machine.node is not None:
                await machine.node.stopped.wait()
    if patience.cancelled_caught and not world.report.violations:
        world.violate("the simulation ends", "some nodes cannot be disposed of")


class _Nowhere(io.TextIOBase):
    """Takes every word, keeps none."""

    def write(self, text: str, /) -> int:
        return len(text)


@contextmanager
def _directory() -> Iterator[Path]:
    """Where files cost no disk."""
    shared = Path("/dev/shm")
    fast = str(shared) if shared.is_dir() and os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="trioqueue-simulation-", dir=fast) as directory:
        yield Path(directory)
