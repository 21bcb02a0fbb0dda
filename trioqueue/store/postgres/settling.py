"""What settling sends: each settlement with what the lifecycle makes of it, as columns of an array each.

The row decides which of two transitions applies: somebody may have asked the job to stop since it was
claimed, and only the statement that locks the row knows. Both come from `lifecycle.after_attempt`,
so that one statement, one round trip and no open transaction are enough.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from msgspec.structs import replace

from trioqueue.errors import LeaseLost, StoreUnavailable
from trioqueue.jobs.job import Claim, Job, JobId, Json
from trioqueue.jobs.lifecycle import Transition, after_attempt
from trioqueue.jobs.outcome import NAMES, Completed, Outcome, error_of
from trioqueue.store import changes
from trioqueue.store.postgres.database import Commit, Database
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.rows import Row, is_due, job_from_row, text_of
from trioqueue.store.protocol import Settlement


@dataclass(frozen=True, slots=True)
class Case:
    """One settlement under one condition: `asked` tells whether the job was asked to stop; None fits both."""

    n: int
    job: Job
    asked: bool | None
    outcome: Outcome
    transition: Transition
    worker: int | None


class Settlements:
    """Settles, and knows of which settlements the answer was lost."""

    def __init__(self, database: Database, hints: Hints, random: Random) -> None:
        self._database = database
        self._hints = hints
        self._random = random
        self._doubtful: set[tuple[JobId, int]] = set()
        """Job and epoch of those whose answers were lost."""

    def __repr__(self) -> str:
        return f"<Settlements {len(self._doubtful)} in doubt>"

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        """As the store's contract says. One that is named twice is settled once."""
        asked: dict[tuple[JobId, int], int] = {}
        for n, settlement in enumerate(settlements):
            asked.setdefault((settlement.claim.job.id, settlement.claim.epoch), n)
        each = {n: settlements[n] for n in asked.values()}
        doubtful = self._doubtful & asked.keys()
        try:
            settled = await self._send(
                [
                    case
                    for n, each_one in each.items()
                    for case in self._cases(n, each_one.claim.job, each_one.outcome, each_one.worker)
                ]
            )
            if missing := {asked[key]: each[asked[key]] for key in doubtful if asked[key] not in settled}:
                settled |= await self._settled_before(missing)
        except StoreUnavailable:
            self._doubtful |= asked.keys()
            raise
        self._doubtful -= asked.keys()
        return [settled.get(n) for n in range(len(settlements))]

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        """Settle jobs whose lease has expired. Looked at again by the statement that settles them."""
        rows = await self._database.rows("expired", {"limit": limit})
        expired = [
            case
            for n, (*row, stopping) in enumerate(rows)
            for job in [job_from_row(tuple(row))]
            for case in self._cases(n, job, changes.left_behind(job, stopping=stopping), None)
        ]
        rescued = await self._send(expired, expired=True) if expired else {}
        return [rescued[n] for n in sorted(rescued)]

    async def complete(self, claim: Claim, result: Json | None, worker: int | None, commit: Commit) -> Job:
        """Settle as completed, as the last thing in a transaction; `LeaseLost` rolls it back."""
        completed = list(self._cases(0, claim.job, Completed(result), worker))
        lost = LeaseLost(claim.job.id, claim.epoch)
        rows = await commit("settle", settle_values(completed), or_else=lost, skip_locked="")
        job, _ = settled_jobs(completed, rows)[0]
        return job

    def _cases(self, n: int, job: Job, outcome: Outcome, worker: int | None) -> Iterable[Case]:
        return cases(n, job, outcome, worker, self._random.random())

    async def _send(self, all_cases: Sequence[Case], *, expired: bool = False) -> dict[int, Job]:
        values = settle_values(all_cases, expired=expired)
        rows = await self._database.rows("settle", values, skip_locked="SKIP LOCKED" if expired else "")
        settled = settled_jobs(all_cases, rows)
        self._hints.ring_for([job for job, now in settled.values() if is_due(job, now)])
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
        return {row[0]: job_from_row(row[1:]) for row in rows}


def cases(n: int, job: Job, outcome: Outcome, worker: int | None, jitter: float) -> Iterable[Case]:
    """What may become of `job`. The number `n` names the settlement in the statement's answer."""
    if isinstance(outcome, Completed):
        yield Case(n, job, None, outcome, after_attempt(job, outcome, jitter), worker)
        return
    untold = replace(job, cancel_requested_at=None)
    asked = replace(job, cancel_requested_at=job.created_at)  # any time: only whether it is set counts
    yield Case(n, job, False, outcome, after_attempt(untold, outcome, jitter), worker)
    yield Case(n, job, True, outcome, after_attempt(asked, outcome, jitter), worker)


def settle_values(cases: Sequence[Case], *, expired: bool = False) -> dict[str, Any]:
    """The parameters of settle.sql."""
    transitions = [case.transition for case in cases]
    return {
        "n": [case.n for case in cases],
        "id": [case.job.id for case in cases],
        "epoch": [case.job.epoch for case in cases],
        "asked": [case.asked for case in cases],
        "status": [str(transition.status) for transition in transitions],
        "attempt": [transition.attempt for transition in transitions],
        "crash_count": [transition.crash_count for transition in transitions],
        "wait_seconds": [transition.wait_seconds for transition in transitions],
        "reason": [transition.reason for transition in transitions],
        "result": [text_of(transition.result) for transition in transitions],
        "outcome": [str(NAMES[type(case.outcome)]) for case in cases],
        "error": [error_of(case.outcome) for case in cases],
        "worker": [case.worker for case in cases],
        "expired": expired,
    }


def settled_jobs(cases: Sequence[Case], rows: Sequence[Row]) -> dict[int, tuple[Job, datetime]]:
    """The jobs as they are after settle.sql has answered with `rows`, by number, and the time it was then."""
    by_condition = {(case.n, case.asked): case for case in cases}
    settled: dict[int, tuple[Job, datetime]] = {}
    for n, asked, version, lease_until, cancel_requested_at, progress, now in rows:
        case = by_condition[n, asked]
        job = replace(
            case.job,
            version=version,
            lease_until=lease_until,
            cancel_requested_at=cancel_requested_at,
            progress=None if progress is None else Json(progress.encode()),
        )
        settled[n] = (changes.settled(job, case.transition, now), now)
    return settled
