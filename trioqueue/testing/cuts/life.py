"""One life of a job in virtual time, from its acceptance to its end, with at most one cut in it.

A small node in plain view: it claims, runs an attempt, settles, and waits until the job is due again.
Attempt, context, store and rules are the real ones. What happens at a cut is `_die`, `_lose` and
`_go_on`.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import inf
from random import Random

import trio
from trio.testing import MockClock

from trioqueue.clock import EPOCH_OF_TESTS, TrioClock
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Claim, Job, NewJob, NodeId, Status, new_job_id
from trioqueue.jobs.outcome import Outcome
from trioqueue.runtime.attempt import run_attempt
from trioqueue.runtime.leases import Cause, Held
from trioqueue.store.memory.store import MemoryStore
from trioqueue.store.protocol import Settlement
from trioqueue.testing.cuts.machine import Machine, QuietContext
from trioqueue.testing.cuts.steps import Steps, Subtree, determinism
from trioqueue.testing.cuts.subject import Cut, GaveUp, Life, Subject, World, ask, complaint_of, enter, listed
from trioqueue.testing.cuts.where import Line, lines_of_task, lines_of_thread

LEASE_SECONDS = 30.0
"""After a cut, another node takes over so much later, as with the default settings."""

RENEWAL_SECONDS = 10.0
"""So long a node that was paused may go on before it learns that its lease is lost."""

MOST_ATTEMPTS = 1000
MOST_RESULT_BYTES = 1_048_576


def live(subject: Subject, cut: Cut | None = None, after: int | None = None) -> Life:
    """Let the job live in a fresh world, cut after that many steps. Raises `GaveUp` if it does not end."""
    steps = Steps(after)
    clock = MockClock(autojump_threshold=0)
    with determinism():
        return trio.run(_Lifetime(subject, cut, steps, clock).run, clock=clock, instruments=[steps])


@dataclass(slots=True, eq=False)
class _Attempt:
    """One attempt and its tasks."""

    held: Held
    machine: Machine
    tasks: Subtree = field(default_factory=Subtree)
    outcome: Outcome | None = None


class _Lifetime:
    def __init__(self, subject: Subject, cut: Cut | None, steps: Steps, trio_clock: MockClock) -> None:
        self._subject = subject
        self._cut = cut
        self._steps = steps
        self._trio_clock = trio_clock
        self._handlers = Handlers()
        handler = subject.handler
        self._handlers.handler(
            handler.type, timeout_seconds=handler.timeout_seconds, max_attempts=handler.max_attempts
        )(handler.function)
        self._clock = TrioClock(EPOCH_OF_TESTS)
        self._store = MemoryStore(self._clock, Random(0))
        self._attempts: list[_Attempt] = []
        self._scope = trio.CancelScope()
        self._was_cut = False
        self._where: tuple[Line, ...] = ()
        """Where the cut fell, or where it did not go on."""
        self._life: Life | None = None
        self._failure: Exception | None = None

    async def run(self) -> Life:
        async with AsyncExitStack() as stack:
            world = await enter(stack, self._subject.world())
            try:
                with trio.CancelScope() as self._scope:
                    self._steps.give_up = self._give_up
                    async with trio.open_nursery() as nursery:
                        try:
                            self._life = await self._live(world, nursery)
                        except Exception as error:  # of the user's functions: no group around it
                            self._failure = error
                        finally:
                            self._dispose()
                    # Every task of every attempt has ended, frozen ones too.
            except BaseExceptionGroup as group:
                if group.subgroup(KeyboardInterrupt) is not None:
                    raise KeyboardInterrupt from None
                if self._steps.stuck is None:
                    raise
        if self._steps.stuck is not None:
            raise GaveUp(self._steps.stuck, self._where)
        if self._failure is not None:
            raise self._failure
        assert self._life is not None
        return self._life

    def _give_up(self) -> None:
        running = [attempt for attempt in self._attempts if not attempt.tasks.ended]
        self._where = self._lines_of(running[-1]) if running else ()
        self._scope.cancel()

    async def _live(self, world: World, nursery: trio.Nursery) -> Life:
        subject = self._subject
        new = NewJob(
            id=new_job_id(EPOCH_OF_TESTS, Random(0)),
            type=subject.handler.type,
            payload=subject.payload,
            max_attempts=subject.handler.max_attempts,
            timeout_seconds=subject.handler.timeout_seconds,
        )
        await self._store.enqueue([new])
        interrupted = await self._attend(nursery)
        if interrupted is not None:
            self._was_cut = True
            self._where = self._lines_of(interrupted)
            if self._cut is Cut.LEASE_LOST:
                await self._lose(interrupted)
            else:
                await self._die(interrupted, world)
            await self._attend(nursery)
            if self._cut is Cut.OVERLAPPED:
                await self._go_on(interrupted)
        return await self._look(new, world)

    async def _attend(self, nursery: trio.Nursery) -> _Attempt | None:
        """Do what nodes do, until the job has ended, or an attempt was cut: then that is returned."""
        types = frozenset({self._subject.handler.type})
        while (due_in := await self._store.next_due_in(types)) is not None:
            await trio.sleep(max(due_in, 0))
            node = NodeId(f"node-{len(self._attempts) + 1}")
            for claim in await self._store.claim(node=node, types=types, limit=1, lease_seconds=0):
                attempt = await self._begin(claim, nursery)
                if attempt.tasks.frozen:
                    return attempt
                await self._settle(attempt)
            if len(self._attempts) > MOST_ATTEMPTS:
                raise GaveUp(f"it had made {MOST_ATTEMPTS} attempts and not ended", ())
        return None

    async def _begin(self, claim: Claim, nursery: trio.Nursery) -> _Attempt:
        """An attempt that has ended, or in which the cut has fallen."""
        held = Held(claim, trio.current_time(), inf)
        attempt = _Attempt(held, Machine(self._trio_clock))
        self._attempts.append(attempt)
        self._steps.adopt_next(attempt.tasks)
        nursery.start_soon(self._run, attempt)
        await attempt.tasks.halted.wait()
        if attempt.tasks.frozen and attempt.machine.thread is not None:
            await attempt.tasks.root_parked.wait()  # its thread has ended, or waits for an answer
            attempt.machine.hold_clock(False)
        return attempt

    async def _run(self, attempt: _Attempt) -> None:
        context = QuietContext(
            attempt.held.claim,
            attempt.held,
            1,
            self._store,
            self._clock,
            attempt.machine,
            max_result_bytes=MOST_RESULT_BYTES,
        )
        attempt.outcome = await run_attempt(
            attempt.held,
            context,
            self._handlers,
            spawner=attempt.machine,
            threads=trio.CapacityLimiter(1),
            max_result_bytes=MOST_RESULT_BYTES,
        )
        attempt.tasks.ended = True

    async def _settle(self, attempt: _Attempt) -> Job | None:
        assert attempt.outcome is not None
        [job] = await self._store.settle([Settlement(attempt.held.claim, attempt.outcome, 1)])
        return job

    async def _die(self, attempt: _Attempt, world: World) -> None:
        """Its process is gone, or paused; when the lease has run out, another node finds the job."""
        if self._cut is not Cut.OVERLAPPED and self._subject.on_kill is not None:
            await ask(self._subject.on_kill, world)
        await trio.sleep(LEASE_SECONDS)
        await self._store.rescue(limit=1)

    async def _lose(self, attempt: _Attempt) -> None:
        """Another node has the job; this one hears of it, and its attempt cleans up."""
        await self._store.rescue(limit=1)
        await self._cancel(attempt)

    async def _go_on(self, attempt: _Attempt) -> None:
        """The pause is over. It goes on until it ends, or its node's next renewal says that it is late."""
        attempt.tasks.halted = trio.Event()
        attempt.machine.hold_clock(attempt.machine.thread is not None)
        attempt.tasks.thaw()
        with trio.move_on_after(RENEWAL_SECONDS):
            await attempt.tasks.halted.wait()
        await self._cancel(attempt)

    async def _cancel(self, attempt: _Attempt) -> None:
        if not attempt.tasks.ended:
            attempt.tasks.halted = trio.Event()
            attempt.held.cancel(Cause.LOST)
            attempt.tasks.thaw()
            await attempt.tasks.halted.wait()
        assert await self._settle(attempt) is None, "a late attempt was settled"

    async def _look(self, new: NewJob, world: World) -> Life:
        """What there is to see when all is over, before the frozen tasks clean up."""
        job = await self._store.get(new.id)
        attempts = await self._store.attempts(new.id)
        effects = [] if self._subject.effects is None else listed(await ask(self._subject.effects, world))
        return Life(
            job=job,
            error=attempts[-1].error if attempts and job.status is Status.DEAD else None,
            effects=effects,
            complaint=await complaint_of(self._subject.check, world),
            steps=self._steps.taken,
            ends=self._steps.ends,
            was_cut=self._was_cut,
            where=self._where,
        )

    def _dispose(self) -> None:
        """Let frozen tasks unwind. Nobody looks at the world any more."""
        for attempt in self._attempts:
            if attempt.tasks.frozen:
                attempt.held.cancel(Cause.LOST)
                attempt.tasks.thaw()

    def _lines_of(self, attempt: _Attempt) -> tuple[Line, ...]:
        """Where it waits: in its thread, in the task that was the last to do something, or anywhere."""
        path = self._subject.path
        thread = attempt.machine.thread
        if thread is not None:
            return lines_of_thread(thread, handler_path=path)
        for task in (attempt.tasks.newest, attempt.tasks.root):
            if task is not None and (lines := lines_of_task(task, handler_path=path)):
                return lines
        return ()
