"""A short, busy life of a SQLite store, with a note of every promise that it makes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import trio

from tests.crash.promises import Changed, Enqueued, Pruned, Pruning, State
from trioqueue.clock import Clock, WallClock
from trioqueue.errors import JobNotFound, WrongStatus
from trioqueue.events import Events
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import FINAL, Claim, Job, JobId, Json, NewJob, NodeId, new_job_id
from trioqueue.jobs.outcome import Completed, Failed, Lost, Outcome, Snoozed
from trioqueue.service.service import Service
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Settlement, Store
from trioqueue.wire.jobs import JobRequest

TYPES = ("mail", "picture")
LEASE_SECONDS = 30.0
CREATION, WORK, CLOSING, OPENING = "at the first opening", "at work", "at closing", "at the next opening"
CLIENTS = 3
WORKERS = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """What the store does from here on."""

    name: str


class MovableClock:
    """Wall time that can be moved on, so that leases expire."""

    def __init__(self) -> None:
        self._clock: Clock = WallClock()
        self._ahead = timedelta()

    def now(self) -> datetime:
        return self._clock.now() + self._ahead

    def move_on(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


class Book:
    """The callers' side: whatever the store answers is written into the log, at once."""

    def __init__(self, log: list[object]) -> None:
        self._log = log
        inherited = [state for entry in log if isinstance(entry, Enqueued) for state in entry.states]
        self.ended = {state.id for state in inherited if state.status in FINAL}
        """Jobs that had a final status when they were last heard of, and were not pruned yet."""
        self.enqueued = [state.id for state in inherited]

    def begin(self, stage: str) -> None:
        self._log.append(Stage(stage))

    def enqueue(self, jobs: Sequence[Job]) -> None:
        self._log.append(Enqueued(tuple(State.of(job) for job in jobs)))
        self.enqueued.extend(job.id for job in jobs)

    def change(self, job: Job) -> None:
        self._log.append(Changed(State.of(job)))
        if job.is_final:
            self.ended.add(job.id)

    async def prune(self, store: Store, limit: int) -> None:
        pruning = Pruning()
        self._log.append(pruning)
        await store.prune(dict.fromkeys(FINAL, timedelta()), limit=limit)
        gone = frozenset({id for id in sorted(self.ended) if not await is_there(store, id)})
        pruning.ids = gone
        self._log.append(Pruned(gone))
        self.ended -= gone


async def is_there(store: Store, id: JobId) -> bool:
    try:
        await store.get(id)
    except JobNotFound:
        return False
    return True


async def live(path: Path, log: list[object], seed: int, *, sessions: int, steps: int) -> None:
    """Open the store, work, close it, and that again, `sessions` times; `steps` is how much work.

    A log that is not empty says what an earlier life has left.
    """
    random = Random(seed)
    clock = MovableClock()
    book = Book(log)
    is_new = not log
    book.begin(CREATION if is_new else OPENING)
    for session in range(sessions):
        node = NodeId(f"node-{session}")
        async with open_store(f"sqlite:///{path}", clock=clock, random=random, node=node) as store:
            await store.beat(node)
            book.begin(WORK)
            for _ in range(2):
                await Day(store, node, book, clock, random).work(steps)
            book.begin(CLOSING)
        book.begin(OPENING)


class Day:
    """Clients and workers at once; in the evening, what was left behind is put in order."""

    def __init__(self, store: Store, node: NodeId, book: Book, clock: MovableClock, random: Random) -> None:
        handlers = Handlers()
        for type in TYPES:
            handlers.handler(type, max_attempts=3)(_accept)
        self._service = Service(
            store,
            handlers,
            node=node,
            events=Events(),
            clock=clock,
            random=random,
            draining=trio.Event(),
            max_payload_bytes=1_000_000,
        )
        self._store = store
        self._node = node
        self._book = book
        self._clock = clock
        self._random = random

    async def work(self, steps: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(self._client, steps)
            for _ in range(WORKERS):
                nursery.start_soon(self._worker, steps)
        self._clock.move_on(2 * LEASE_SECONDS)
        for job in [*await self._store.rescue(limit=100), *await self._store.expire(limit=100)]:
            self._book.change(job)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._client, steps // 2)
            nursery.start_soon(self._book.prune, self._store, len(self._book.ended) // 2)

    async def _client(self, steps: int) -> None:
        for _ in range(steps):
            match self._random.choice(["single", "single", "batch", "cancel"]):
                case "single":
                    answer = await self._service.enqueue(self._request())
                    self._book.enqueue([answer.job])
                case "batch":
                    answers = await self._store.enqueue(
                        [self._new() for _ in range(self._random.randint(2, 6))]
                    )
                    self._book.enqueue([answer.job for answer in answers])
                case "cancel" if self._book.enqueued:
                    await self._cancel(self._random.choice(self._book.enqueued))

    async def _cancel(self, id: JobId) -> None:
        with suppress(WrongStatus, JobNotFound):
            self._book.change((await self._service.cancel(id, wait_seconds=0)).job)

    def _request(self) -> JobRequest:
        new = self._new()
        return JobRequest(
            type=new.type,
            payload={"text": "x" * len(new.payload)},
            priority=new.priority,
            delay_seconds=new.delay_seconds,
            tags=list(new.tags),
        )

    def _new(self) -> NewJob:
        """Most are small; some go over several pages of the database."""
        random = self._random
        now = self._clock.now()
        size = random.choice([10, 10, 100, 100, 1000, 9000])
        return NewJob(
            id=new_job_id(now, random),
            type=random.choice(TYPES),
            payload=Json(b'{"text": "%s"}' % random.choice([b"a", b"b"]).ljust(size, b"-")),
            priority=random.randint(-1, 1),
            delay_seconds=random.choice([None, None, None, LEASE_SECONDS]),
            deadline_at=random.choice([None, None, None, now + timedelta(seconds=LEASE_SECONDS)]),
            max_attempts=3,
            tags=tuple(random.sample(["red", "green", "blue"], random.randint(0, 2))),
        )

    async def _worker(self, steps: int) -> None:
        for _ in range(steps):
            limit = self._random.randint(1, 4)
            claims = await self._store.claim(
                node=self._node, types=frozenset(TYPES), limit=limit, lease_seconds=LEASE_SECONDS
            )
            for claim in claims:
                self._book.change(claim.job)
            await self._end(claims)

    async def _end(self, claims: Sequence[Claim]) -> None:
        settlements = []
        for claim in claims:
            match self._random.choice(["settle"] * 6 + ["renew", "release", "abandon"]):
                case "settle":
                    settlements.append(Settlement(claim, self._outcome(claim), worker=1))
                case "renew":
                    await self._store.renew([claim], lease_seconds=LEASE_SECONDS)
                    await self._look(claim.job.id)
                    settlements.append(Settlement(claim, self._outcome(claim), worker=1))
                case "release":
                    await self._store.release([claim])
                    await self._look(claim.job.id)
        for job in await self._store.settle(settlements):
            if job is not None:
                self._book.change(job)

    async def _look(self, id: JobId) -> None:
        """For calls whose answer does not say what the job is now."""
        with suppress(JobNotFound):
            self._book.change(await self._store.get(id))

    def _outcome(self, claim: Claim) -> Outcome:
        result = Json(b'{"epoch": %d, "more": "%s"}' % (claim.epoch, b"r" * self._random.choice([1, 3000])))
        outcomes: list[Outcome] = [Completed(result)] * 5
        outcomes += [Failed("the handler raised"), Snoozed(1.0), Lost(self._node)]
        return self._random.choice(outcomes)


async def _accept(ctx: object, text: str) -> None:
    """Never called: workers here only say what it came to."""
