"""The contract on a PostgreSQL server that many nodes share. One statement for each call, where one will do.

A call whose answer is lost leaves open whether it happened. So every statement may be repeated: ids
are made before the first try, a claim carries a token by which it is given back, and a settlement is
looked up in the ledger.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from random import Random

import trio
from psycopg import errors

from trioqueue.clock import Clock
from trioqueue.config import without_secrets
from trioqueue.errors import JobNotFound, LeaseLost, StoreUnavailable
from trioqueue.jobs.job import FINAL, Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.jobs.lifecycle import after_deadline
from trioqueue.jobs.outcome import NAMES, Completed
from trioqueue.store import changes
from trioqueue.store.cursors import LAST_PLACE, cursor_of, place_of
from trioqueue.store.postgres.connection import NO_LIMITS, Server, TrioConnection
from trioqueue.store.postgres.database import LOOP_SECONDS, REQUEST_SECONDS, Database
from trioqueue.store.postgres.gather import Gatherer
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.migrate import CONNECT_SECONDS, prepare
from trioqueue.store.postgres.options import PostgresOptions
from trioqueue.store.postgres.pool import Pool
from trioqueue.store.postgres.queries import queries_of
from trioqueue.store.postgres.rows import (
    InstantLoader,
    Row,
    attempt_from_row,
    job_from_row,
    node_from_row,
    running_from_row,
    text_of,
)
from trioqueue.store.postgres.settling import Case, cases, is_due, settle_values, settled_jobs
from trioqueue.store.protocol import (
    SILENT_SECONDS,
    Bell,
    Completion,
    Count,
    Enqueued,
    Hint,
    JobFilter,
    NodeFacts,
    NodeSeen,
    Page,
    Renewal,
    Running,
    Settlement,
)
from trioqueue.store.rows import tags_to_text

PROMOTED_AT_ONCE = 1000
"""Delayed jobs of one type that one claim makes due."""

DOUBT_SECONDS = 15.0
"""A claim whose answer was lost may still be carried out for so long: until the server ends the statement."""

TRANSACTIONS = 100
"""So many handlers' transactions at once; each has a connection of its own."""

ENQUEUE_TRIES = 5

SHORTEST_SECONDS = 0.2
"""Whoever has waited for others gets at least so long for a call of their own."""

FAREWELL_SECONDS = 1.0
"""For taking the node off the list, when it ends while the server is away."""


class PostgresStore:
    """Keeps jobs in one schema of a database."""

    def __init__(
        self,
        *,
        url: str,
        database: Database,
        hints: Hints,
        transactions: Pool,
        node: NodeId,
        random: Random,
    ) -> None:
        self._url = url
        self._database = database
        self._hints = hints
        self._transactions = transactions
        self._node = node
        self._random = random
        self._gatherer = Gatherer(self._enqueue_all, within=REQUEST_SECONDS)
        self._doubtful_claims: dict[int, float] = {}
        """Tokens of claims whose answers were lost, and until when they may still be carried out."""
        self._doubtful_settlements: set[tuple[JobId, int]] = set()
        """Job and epoch of settlements whose answers were lost."""

    def __repr__(self) -> str:
        return f"<PostgresStore {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    def listen(self, bell: Bell) -> None:
        self._hints.listen(bell)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        if not jobs:
            await trio.lowlevel.checkpoint()
            return []
        if any(new.unique_key is not None for new in jobs):
            # It may have to wait for a transaction of somebody else's. Nobody shall wait with it.
            return await self._enqueue_all(jobs, trio.current_time() + REQUEST_SECONDS)
        return await self._gatherer.submit(jobs)

    async def _enqueue_all(self, jobs: Sequence[NewJob], deadline: float) -> list[Enqueued]:
        """All or none of the jobs of several calls; one that stands there twice is kept once."""
        first_with = {new.id: n for n, new in reversed(list(enumerate(jobs)))}
        asked = [n for n, new in enumerate(jobs) if first_with[new.id] == n]
        answers: dict[int, Enqueued] = {}
        for _ in range(ENQUEUE_TRIES):
            open_ones = [n for n in asked if n not in answers]
            if not open_ones:
                break
            answers |= await self._enqueue({n: jobs[n] for n in open_ones}, deadline)
        else:
            raise StoreUnavailable("the unique keys of these jobs change hands all the time")
        return [
            answers[n] if n in answers else Enqueued(answers[first_with[new.id]].job, created=False)
            for n, new in enumerate(jobs)
        ]

    async def _enqueue(self, jobs: Mapping[int, NewJob], deadline: float) -> dict[int, Enqueued]:
        """What has become of these; one is missing when the job that had its key has ended meanwhile."""
        try:
            rows = await self._database.rows(
                "enqueue",
                _enqueue_values(jobs),
                within=max(deadline - trio.current_time(), SHORTEST_SECONDS),
                repeatable=True,
            )
        except errors.UniqueViolation:  # the same id at the same time: an earlier try of this one
            return {}
        answers = {n: Enqueued(changes.accepted(jobs[n], now), created=True) for n, now in rows}
        due = [
            answer.job
            for answer, (_, now) in zip(answers.values(), rows, strict=True)
            if is_due(answer.job, now)
        ]
        self._ring_for(due)
        for n, new in jobs.items():
            if n not in answers and (job := await self._there(new)) is not None:
                answers[n] = Enqueued(job, created=False)
        return answers

    async def _there(self, new: NewJob) -> Job | None:
        """The job that is there in place of `new`."""
        for query, values in (
            ("job", {"id": new.id}),
            ("job_with_unique_key", {"unique_key": new.unique_key}),
        ):
            for row in await self._read(query, values):
                return job_from_row(row)
        return None

    async def get(self, job_id: JobId) -> Job:
        for row in await self._read("job", {"id": job_id}):
            return job_from_row(row)
        raise JobNotFound(job_id)

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        rows = await self._read("attempts", {"id": job_id})
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
        rows = await self._read("jobs", values, page=self._page_of(filter))
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
        await self._give_back_doubtful_claims()
        token = self._random.getrandbits(63)
        values = {
            "node": node,
            "types": None if types is None else sorted(types),
            "limit": limit,
            "promoted": PROMOTED_AT_ONCE,
            "lease_seconds": lease_seconds,
            "token": token,
        }
        try:
            rows = await self._database.rows("claim", values)
        except StoreUnavailable:
            self._doubtful_claims[token] = trio.current_time() + DOUBT_SECONDS
            raise
        return [Claim(job=job_from_row(row), node=node) for row in rows]

    async def _give_back_doubtful_claims(self) -> None:
        """What the node does not know that it holds would wait for its lease, and count as a crash."""
        if self._doubtful_claims:
            tokens = dict(self._doubtful_claims)
            asked_at = trio.current_time()
            await self._release([], tokens=list(tokens))
            for token, until in tokens.items():
                if until < asked_at:
                    del self._doubtful_claims[token]

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
        renewed = {(claims[n].job.id, claims[n].epoch): asked for n, asked in rows}
        return [
            Renewal(claim, renewed=key in renewed, cancel_requested=renewed.get(key, False))
            for claim in claims
            for key in [(claim.job.id, claim.epoch)]
        ]

    async def progress(self, claim: Claim, progress: Json) -> None:
        values = {"id": claim.job.id, "epoch": claim.epoch, "progress": progress.decode()}
        if not await self._database.rows("progress", values, within=REQUEST_SECONDS, repeatable=True):
            raise LeaseLost(claim.job.id, claim.epoch)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        asked: dict[tuple[JobId, int], int] = {}
        for n, settlement in enumerate(settlements):
            asked.setdefault((settlement.claim.job.id, settlement.claim.epoch), n)
        all_cases = [
            case
            for n in asked.values()
            for case in cases(
                n, settlements[n].claim.job, settlements[n].outcome, settlements[n].worker, self._random
            )
        ]
        doubtful = self._doubtful_settlements & asked.keys()
        try:
            settled = await self._settle(all_cases)
            if doubtful:
                settled |= await self._settled_before(
                    {asked[key]: settlements[asked[key]] for key in doubtful if asked[key] not in settled}
                )
        except StoreUnavailable:
            self._doubtful_settlements |= asked.keys()
            raise
        self._doubtful_settlements -= asked.keys()
        return [settled.get(n) for n in range(len(settlements))]

    async def _settle(self, all_cases: Sequence[Case], *, expired: bool = False) -> dict[int, Job]:
        rows = await self._database.rows("settle", settle_values(all_cases, expired=expired))
        settled = settled_jobs(all_cases, rows)
        self._ring_for([job for job, now in settled.values() if is_due(job, now)])
        return {n: job for n, (job, _) in settled.items()}

    async def _settled_before(self, settlements: Mapping[int, Settlement]) -> dict[int, Job]:
        """Those that the ledger has already: an earlier call was carried out, and its answer was lost."""
        values = {
            "n": list(settlements),
            "id": [settlement.claim.job.id for settlement in settlements.values()],
            "epoch": [settlement.claim.epoch for settlement in settlements.values()],
            "outcome": [str(NAMES[type(settlement.outcome)]) for settlement in settlements.values()],
            "node": [settlement.claim.node for settlement in settlements.values()],
        }
        rows = await self._database.rows("settled", values, repeatable=True)
        return {n: await self.get(settlements[n].claim.job.id) for (n,) in rows}

    @asynccontextmanager
    async def transaction(self, claim: Claim, *, worker: int | None) -> AsyncIterator[Completion]:
        async with self._transactions.lend(LOOP_SECONDS) as connection:
            completion = Completion(connection)
            async with self._database.transaction(connection) as commit:
                yield completion
                completed = list(cases(0, claim.job, Completed(completion.result), worker, self._random))
                rows = await commit(
                    "settle", settle_values(completed), or_else=LeaseLost(claim.job.id, claim.epoch)
                )
            completion.job, _ = settled_jobs(completed, rows)[0]

    async def release(self, claims: Sequence[Claim]) -> int:
        return await self._release(claims, tokens=[])

    async def _release(self, claims: Sequence[Claim], *, tokens: Sequence[int]) -> int:
        values = {
            "id": [claim.job.id for claim in claims],
            "epoch": [claim.epoch for claim in claims],
            "node": self._node,
            "tokens": list(tokens),
        }
        rows = await self._database.rows("release", values)
        if rows:
            self._hints.ring(Hint.WORK, {queue for (queue,) in rows})
        return len(rows)

    async def cancel(self, job_id: JobId) -> Job:
        await self._database.rows("cancel", {"id": job_id}, within=REQUEST_SECONDS, repeatable=True)
        job = await self.get(job_id)
        if job.status is Status.PROCESSING:
            self._hints.ring(Hint.CANCEL)
        return job

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        silence = {"silent_seconds": SILENT_SECONDS}
        [(changed, expired, silent)] = await self._database.rows("rescue_is_due", silence)
        if changed:
            await self._database.rows("fold_counters")
        rescued = await self._rescue_expired(limit) if expired else []
        if silent:
            await self._database.rows("forget_silent_nodes", silence)
        return rescued

    async def _rescue_expired(self, limit: int) -> Sequence[Job]:
        rows = await self._database.rows("expired", {"limit": limit})
        expired = [
            case
            for n, (*row, stopping) in enumerate(rows)
            for job in [job_from_row(tuple(row))]
            for case in cases(n, job, changes.left_behind(job, stopping=stopping), None, self._random)
        ]
        rescued = await self._settle(expired, expired=True) if expired else {}
        return [rescued[n] for n in sorted(rescued)]

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

    async def counts(self) -> Sequence[Count]:
        rows = await self._read("counters")
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
        seen = await self._read("nodes")
        running: dict[str, list[Running]] = {}
        for node, *row in await self._read("running"):
            running.setdefault(node, []).append(running_from_row(tuple(row)))
        return [node_from_row(row, running.get(row[0], [])) for row in seen]

    async def run(self) -> None:
        """Serve those who enqueue, until `close`."""
        await self._gatherer.run()

    def close(self) -> None:
        """Take no new jobs any more."""
        self._gatherer.close()

    async def forget(self, node: NodeId) -> None:
        """A node that has ended well is not listed any more."""
        await self._database.rows("forget_node", {"node": node}, repeatable=True)

    async def _read(
        self, query: str, values: Mapping[str, object] | None = None, **parts: str
    ) -> Sequence[Row]:
        return await self._database.rows(query, values, within=REQUEST_SECONDS, repeatable=True, **parts)

    def _ring_for(self, due: Sequence[Job]) -> None:
        if due:
            self._hints.ring(Hint.WORK, {job.queue for job in due})


def _enqueue_values(jobs: Mapping[int, NewJob]) -> dict[str, list[object]]:
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


@asynccontextmanager
async def open_postgres(
    url: str, *, options: PostgresOptions, clock: Clock | None, random: Random, node: NodeId
) -> AsyncIterator[PostgresStore]:
    """The store in the schema that `options` names, which is created or migrated when that is needed.

    `clock` None: the server's own clock decides. A clock is for tests: it makes a schema of its own kind.
    """
    server = Server(url)
    first = await server.connect(within=CONNECT_SECONDS)
    try:
        await prepare(first, options, virtual_time=clock is not None)
    finally:
        first.discard()
    pool = Pool(partial(_connect, server), size=options.connections, random=random)
    for_handlers = Server(url, limits=NO_LIMITS)
    transactions = Pool(
        partial(for_handlers.connect, within=CONNECT_SECONDS), size=TRANSACTIONS, random=random
    )
    listen = partial(server.connect, within=CONNECT_SECONDS)
    hints = Hints(pool, listen, channel=options.channel_name, random=random)
    database = Database(pool, queries_of(options), clock)
    store = PostgresStore(
        url=without_secrets(url),
        database=database,
        hints=hints,
        transactions=transactions,
        node=node,
        random=random,
    )
    failure: Exception | None = None
    async with trio.open_nursery() as connecting:
        await connecting.start(pool.run)
        await connecting.start(transactions.run)
        async with trio.open_nursery() as listening:
            if clock is None:  # in virtual time nothing may come from outside
                listening.start_soon(hints.run)
            async with trio.open_nursery() as enqueueing:
                enqueueing.start_soon(store.run)
                try:
                    yield store
                except Exception as error:
                    failure = error  # raised below: our nurseries would wrap it in groups
                finally:
                    store.close()
            # Whatever had been handed to the store has been committed or refused.
            listening.cancel_scope.cancel()
        # Nobody rings any more.
        with trio.move_on_after(FAREWELL_SECONDS, shield=True), suppress(StoreUnavailable):
            await store.forget(node)
        connecting.cancel_scope.cancel()
    # Every connection is closed.
    if failure is not None:
        raise failure


async def _connect(server: Server) -> TrioConnection:
    connection = await server.connect(within=CONNECT_SECONDS)
    connection.adapters.register_loader("timestamptz", InstantLoader)
    return connection
