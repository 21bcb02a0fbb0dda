"""The contract on a PostgreSQL server that many nodes share. One statement for each call, where one will do.

A call whose answer is lost leaves open whether it happened. So every call may be repeated: ids are made
before the first try (enqueue.py), a claim carries a token by which it is given back (claiming.py), and
a settlement is looked up in the ledger (settling.py).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

from trioqueue.errors import JobNotFound, LeaseLost
from trioqueue.jobs.job import FINAL, Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import after_deadline
from trioqueue.store import changes
from trioqueue.store.cursors import LAST_PLACE, cursor_of, place_of
from trioqueue.store.postgres.claiming import Claims
from trioqueue.store.postgres.connection import TrioConnection
from trioqueue.store.postgres.database import Database
from trioqueue.store.postgres.enqueue import Enqueuer
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.rows import (
    Row,
    attempt_from_row,
    job_from_row,
    node_from_row,
    running_from_row,
)
from trioqueue.store.postgres.settling import Settlements
from trioqueue.store.protocol import (
    ENDS,
    SILENT_SECONDS,
    Bell,
    Completion,
    Count,
    Enqueued,
    Hint,
    JobFilter,
    NextUpkeep,
    NodeFacts,
    NodeSeen,
    Page,
    Redriven,
    Refusal,
    Renewal,
    Running,
    Settlement,
)

FOLDED_AT_ONCE = 10_000
FOLDS = 5
"""Batches of changes that are added to the counters at a time."""


class PostgresStore:
    """Keeps jobs in one schema of a database."""

    def __init__(
        self,
        *,
        url: str,
        database: Database,
        enqueuer: Enqueuer,
        hints: Hints,
        connect: Callable[[], Awaitable[TrioConnection]],
        random: Random,
    ) -> None:
        self._url = url
        self._database = database
        self._enqueuer = enqueuer
        self._hints = hints
        self._connect = connect
        self._claims = Claims(database, hints, random)
        self._settlements = Settlements(database, hints, random)

    def __repr__(self) -> str:
        return f"<PostgresStore {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    def listen(self, bell: Bell) -> None:
        self._hints.listen(bell)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return await self._enqueuer.enqueue(jobs)

    async def get(self, job_id: JobId) -> Job:
        for row in await self._ask("job", {"id": job_id}):
            return job_from_row(row)
        raise JobNotFound(job_id)

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        rows = await self._ask("attempts", {"id": job_id})
        if not rows:
            await self.get(job_id)
        return [attempt_from_row(row) for row in rows]

    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        values = {
            "before": LAST_PLACE if cursor is None else place_of(cursor),
            "limit": limit + 1,  # one more tells whether there is another page
            "status": filter.status and str(filter.status),
            "type": filter.type,
            "queue": filter.queue,
            "tag": filter.tag,
        }
        rows = await self._ask("jobs", values, page=self._page_of(filter))
        jobs = [job_from_row(row[1:]) for row in rows[:limit]]
        return Page(jobs, cursor_of(rows[limit - 1][0]) if len(rows) > limit else None)

    def _page_of(self, filter: JobFilter) -> str:
        """The query of a page's jobs: from the table that has the filter's index."""
        columns = {"type": filter.type, "queue": filter.queue}
        if filter.tag is not None:
            table = "page_of_tag"
            columns["status"] = filter.status
        elif filter.status is None:
            table = "page_of_bodies"
        else:
            table = "page_of_ended" if filter.status in FINAL else "page_of_live"
        filters = "".join(f"AND {name} = %({name})s " for name, value in columns.items() if value is not None)
        return self._database.sql(table).replace("{filters}", filters)

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        return await self._claims.claim(node=node, types=types, limit=limit, lease_seconds=lease_seconds)

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        values = {"types": None if types is None else sorted(types)}
        [(seconds,)] = await self._database.rows("next_due", values, repeatable=True)
        return None if seconds is None else float(seconds)

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        values = {
            "n": list(range(len(claims))),
            "id": [claim.job.id for claim in claims],
            "epoch": [claim.epoch for claim in claims],
            "lease_seconds": lease_seconds,
        }
        rows = await self._database.rows("renew", values, repeatable=True)
        found = {
            (claims[n].job.id, claims[n].epoch): (renewed, asked, held and not renewed)
            for n, renewed, asked, held in rows
        }
        answers = [found.get((claim.job.id, claim.epoch), (False, False, False)) for claim in claims]
        return [Renewal(claim, *answer) for claim, answer in zip(claims, answers, strict=True)]

    async def progress(self, claim: Claim, progress: Json) -> None:
        values = {"id": claim.job.id, "epoch": claim.epoch, "progress": progress.decode()}
        if not await self._database.rows(
            "progress", values, within=self._database.request_seconds, repeatable=True
        ):
            raise LeaseLost(claim.job.id, claim.epoch)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        return await self._settlements.settle(settlements)

    @asynccontextmanager
    async def transaction(self, claim: Claim, *, worker: int | None) -> AsyncIterator[Completion]:
        # A connection of its own: nothing that the handler sets on it may reach another one.
        connection = await self._connect()
        try:
            completion = Completion(connection)
            async with self._database.transaction(connection) as commit:
                yield completion
                job = await self._settlements.complete(claim, completion.result, worker, commit)
            completion.job = job
        finally:
            connection.discard()

    async def release(self, claims: Sequence[Claim]) -> int:
        return await self._claims.release(claims)

    async def cancel(self, job_id: JobId) -> Job:
        await self._database.rows(
            "cancel", {"id": job_id}, within=self._database.request_seconds, repeatable=True
        )
        job = await self.get(job_id)
        if job.status is Status.PROCESSING:
            self._hints.ring(Hint.CANCEL)
        return job

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        values = {"n": list(range(len(job_ids))), "id": list(job_ids)}
        rows = await self._database.rows("redrive", values, within=self._database.request_seconds)
        answers = {row[0]: self._redriven(row) for row in rows}
        back = [answer.job for answer in answers.values() if answer.job and not answer.refusal]
        self._hints.ring_for(back)
        return [answers.get(n) or Redriven(None, Refusal.NOT_FOUND) for n in range(len(job_ids))]

    def _redriven(self, row: Row) -> Redriven:
        _, was_there, is_back, now, *columns = row
        job = job_from_row(tuple(columns))
        if is_back:
            return Redriven(changes.redriven(job, now))
        if not was_there:  # or somebody else has just redriven it
            return Redriven(job, Refusal.STATUS)
        return Redriven(job, changes.refusal(job, now) or Refusal.UNIQUE_KEY)

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        silence = {"silent_seconds": SILENT_SECONDS}
        [(changed, expired, silent)] = await self._database.rows("rescue_is_due", silence)
        rescued = await self._settlements.rescue(limit=limit) if expired else []
        if silent:
            await self._database.rows("forget_silent_nodes", silence)
        if changed:
            await self._fold_counters()
        return rescued

    async def _fold_counters(self) -> None:
        """A few batches; what is left is for the next time, and the counts are right in any case."""
        for _ in range(FOLDS):
            [(folded,)] = await self._database.rows("fold_counters", {"limit": FOLDED_AT_ONCE})
            if folded < FOLDED_AT_ONCE:
                break

    async def expire(self, *, limit: int) -> Sequence[Job]:
        late = [job_from_row(row) for row in await self._database.rows("late", {"limit": limit})]
        if not late:
            return []
        ends = [after_deadline(job) for job in late]
        values = {
            "n": list(range(len(late))),
            "id": [job.id for job in late],
            "version": [job.version for job in late],
            "status": [str(end.status) for end in ends],
            "reason": [end.reason for end in ends],
        }
        rows = await self._database.rows("expire", values)
        return [changes.settled(late[n], ends[n], now) for n, now in sorted(rows)]

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        await self._database.rows("drop_empty_counters")
        pruned = 0
        for status, kept_for in retention.items():
            if status in FINAL and pruned < limit:
                values = {"status": str(status), "kept_for": kept_for, "limit": limit - pruned}
                [(count,)] = await self._database.rows("prune", values)
                pruned += count
        return pruned

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        [lease, deadline, *ended] = [seconds for (seconds,) in await self._ask("next_upkeep")]
        old = [
            seconds + retention[status].total_seconds()
            for status, seconds in zip(ENDS, ended, strict=True)
            if seconds is not None and status in retention
        ]
        return NextUpkeep(rescue=lease, expire=deadline, prune=min(old, default=None))

    async def counts(self) -> Sequence[Count]:
        rows = await self._ask("counters")
        return [Count(queue, type, Status(status), jobs) for queue, type, status, jobs in rows]

    async def dedicate(self, *, demo: bool) -> bool:
        return bool(await self._database.rows("dedicate", {"demo": demo}, repeatable=True))

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        said = facts or NodeFacts()
        values = {
            "node": node,
            "said": facts is not None,
            "workers": said.workers,
            "types": None if said.types is None else list(said.types),
            "stopping": stopping,
        }
        await self._database.rows("beat", values, repeatable=True)

    async def nodes(self) -> Sequence[NodeSeen]:
        seen = await self._ask("nodes")
        running: dict[str, list[Running]] = {}
        for node, *row in await self._ask("running"):
            running.setdefault(node, []).append(running_from_row(tuple(row)))
        return [node_from_row(row, running.get(row[0], [])) for row in seen]

    async def forget(self, node: NodeId, *, within: float) -> None:
        """A node that has ended well is not listed any more."""
        await self._database.rows("forget_node", {"node": node}, within=within)

    async def _ask(
        self, query: str, values: Mapping[str, object] | None = None, **parts: str
    ) -> Sequence[Row]:
        return await self._database.rows(
            query, values, within=self._database.request_seconds, repeatable=True, **parts
        )
