"""Keeps new jobs. What many callers ask for at the same time goes in one statement."""

from collections.abc import Mapping, Sequence

import trio
from psycopg import errors

from trioqueue.errors import StoreBusy, StoreUnavailable
from trioqueue.jobs.job import Job, NewJob
from trioqueue.store import changes
from trioqueue.store.postgres.database import Database
from trioqueue.store.postgres.gather import Gatherer
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.rows import Row, is_due, job_from_row, text_of
from trioqueue.store.protocol import Enqueued
from trioqueue.store.rows import tags_to_text

TRIES = 5
"""So often a job is sent again because the one that had its unique key ended in between."""

KEYED_SECONDS = 1.1
"""What a call with a unique key needs: the server waits for a lock for a second (`lock_timeout`)."""

SHORTEST_SECONDS = 0.2
"""Whoever has waited for others gets at least so long for a call of their own."""


class Enqueuer:
    """Sends new jobs to the database, each once, however often an answer is lost."""

    def __init__(self, database: Database, hints: Hints, *, keyed: int) -> None:
        """`keyed`: so many calls with unique keys at a time."""
        self._database = database
        self._hints = hints
        self._gatherer = Gatherer(self._send, within=database.request_seconds)
        self._keyed = trio.Semaphore(keyed)

    def __repr__(self) -> str:
        return f"<Enqueuer {self._gatherer!r}>"

    async def run(self) -> None:
        """Serve until `close`, and until nobody waits any more."""
        await self._gatherer.run()

    def close(self) -> None:
        """Take no new jobs any more."""
        self._gatherer.close()

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """As the store's contract says."""
        if not jobs:
            await trio.lowlevel.checkpoint()
            return []
        if any(new.unique_key is not None for new in jobs):
            return await self._send_keyed(jobs)
        return await self._gatherer.submit(jobs)

    async def _send_keyed(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """They may have to wait for a transaction of somebody else's. Nobody else shall wait with them.

        Few at a time, for each that waits has one of the pool's connections.
        """
        deadline = trio.current_time() + self._database.request_seconds
        with trio.move_on_at(deadline - KEYED_SECONDS):
            await self._keyed.acquire()
            try:
                with trio.CancelScope(shield=True):
                    return await self._send(jobs, deadline)
            finally:
                self._keyed.release()
        raise StoreBusy("too many jobs wait for unique keys that somebody else's transaction holds")

    async def _send(self, jobs: Sequence[NewJob], deadline: float) -> list[Enqueued]:
        """Keep these jobs, of one caller or of several. One that stands there twice is kept once."""
        first_with = {new.id: n for n, new in reversed(list(enumerate(jobs)))}
        open_ones = {n: new for n, new in enumerate(jobs) if first_with[new.id] == n}
        answers: dict[int, Enqueued] = {}
        for _ in range(TRIES):
            answers |= await self._keep(open_ones, deadline)
            open_ones = {n: new for n, new in open_ones.items() if n not in answers}
            if not open_ones:
                break
        else:
            raise StoreUnavailable("the unique keys of these jobs change hands all the time")
        return [
            answers[n] if n in answers else Enqueued(answers[first_with[new.id]].job, created=False)
            for n, new in enumerate(jobs)
        ]

    async def _keep(self, jobs: Mapping[int, NewJob], deadline: float) -> dict[int, Enqueued]:
        """What has become of these; one is missing when the job that had its key has ended meanwhile."""
        rows, again = await self._insert(jobs, deadline)
        answers = {n: Enqueued(changes.accepted(jobs[n], now), created=True) for n, now in rows}
        self._hints.ring_for([answers[n].job for n, now in rows if is_due(answers[n].job, now)])
        missing = {n: new for n, new in jobs.items() if n not in answers}
        try:
            there = await self._there(missing, deadline)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"no answer, {error.reason}") from error  # the others may be kept
        for n, job in there.items():
            # Nobody else knows this id: after a lost answer, a job that has it is the one just made.
            answers[n] = Enqueued(job, created=again and job.id == jobs[n].id)
        return answers

    async def _insert(self, jobs: Mapping[int, NewJob], deadline: float) -> tuple[list[Row], bool]:
        """The numbers of those that were created, and whether that took a second try after a lost answer."""
        values = _values(jobs)
        first: StoreUnavailable | None = None
        while True:
            left = max(deadline - trio.current_time(), SHORTEST_SECONDS)
            try:
                return await self._database.rows("enqueue", values, within=left), first is not None
            except errors.UniqueViolation:  # the same id at the same time: an earlier try of this one
                return [], first is not None
            except StoreBusy:
                raise
            except StoreUnavailable as error:
                if first is not None:
                    raise first from error  # it knows whether the jobs may have been kept
                if deadline - trio.current_time() < self._database.request_seconds / 4:
                    raise
                first = error

    async def _there(self, jobs: Mapping[int, NewJob], deadline: float) -> dict[int, Job]:
        """The jobs that are there in place of these."""
        if not jobs:
            return {}
        values = {
            "ids": [new.id for new in jobs.values()],
            "unique_keys": [new.unique_key for new in jobs.values() if new.unique_key is not None],
        }
        left = max(deadline - trio.current_time(), SHORTEST_SECONDS)
        rows = await self._database.rows("jobs_there", values, within=left, repeatable=True)
        there = [job_from_row(row) for row in rows]
        by_id = {job.id: job for job in there}
        by_key: dict[str | None, Job] = {job.unique_key: job for job in there if not job.is_final}
        by_key.pop(None, None)
        found = {n: by_id.get(new.id) or by_key.get(new.unique_key) for n, new in jobs.items()}
        return {n: job for n, job in found.items() if job is not None}


def _values(jobs: Mapping[int, NewJob]) -> dict[str, list[object]]:
    """The parameters of enqueue.sql: an array for each column."""
    same = [
        *("id", "type", "queue", "priority", "run_at", "delay_seconds", "max_attempts", "timeout_seconds"),
        *("deadline_at", "unique_key", "parent_id", "schedule", "traceparent"),
    ]
    values: dict[str, list[object]] = {name: [getattr(new, name) for new in jobs.values()] for name in same}
    values["n"] = list(jobs)
    values["root_id"] = [new.root_id or new.id for new in jobs.values()]
    values["tags"] = [tags_to_text(new.tags) for new in jobs.values()]
    values["payload"] = [text_of(new.payload) for new in jobs.values()]
    return values
