"""What a handler is given: its job, its deadline, its log, and what it may ask for."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn

import structlog
import trio

from trioqueue.clock import Clock
from trioqueue.errors import StoreUnavailable
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import encode_result
from trioqueue.jobs.job import Claim, Job
from trioqueue.jobs.outcome import first_line
from trioqueue.runtime.leases import Cause, Held
from trioqueue.runtime.spawner import Spawner
from trioqueue.store.protocol import Completion, Store

LONGEST_SNOOZE_SECONDS = 10 * 365 * 86_400
LONGEST_PROGRESS_BYTES = 10_000


class SnoozeRequested(BaseException):
    """Carries `ctx.snooze()` out of the handler. No Exception, so that `except Exception` lets it pass."""

    def __init__(self, seconds: float, reason: str | None) -> None:
        super().__init__(seconds, reason)
        self.seconds = seconds
        self.reason = reason


class Context:
    """One attempt, as its handler sees it. Valid while the handler runs.

    The same object serves `async def` handlers and plain functions in threads; the methods for
    threads say so.
    """

    __slots__ = (
        "_claim",
        "_clock",
        "_completion",
        "_held",
        "_in_transaction",
        "_log",
        "_max_result_bytes",
        "_spawner",
        "_store",
        "worker",
    )

    def __init__(
        self,
        claim: Claim,
        held: Held,
        worker: int,
        store: Store,
        clock: Clock,
        spawner: Spawner,
        *,
        max_result_bytes: int,
    ) -> None:
        self._claim = claim
        self._held = held
        self._store = store
        self._clock = clock
        self._spawner = spawner
        self._max_result_bytes = max_result_bytes
        self._in_transaction = False
        self._completion: Completion | None = None
        self._log: structlog.stdlib.BoundLogger | None = None
        self.worker = worker
        """Which of the node's workers runs this attempt."""

    @property
    def job(self) -> Job:
        """The job as it was when it was claimed."""
        return self._claim.job

    @property
    def attempt(self) -> int:
        """1 for the first attempt; one higher after each that failed or timed out."""
        return self._claim.job.attempt

    @property
    def epoch(self) -> int:
        """The fencing token: pass it to systems that can refuse older numbers."""
        return self._claim.job.epoch

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt of this job: for APIs that accept such a key."""
        return f"trioqueue-{self._claim.job.id}"

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is cancelled if it still runs: the job's timeout or deadline. None: never.

        Renewals of the lease are trioqueue's business; they do not show here.
        """
        seconds = self._held.limit.at - trio.current_time()
        if seconds > LONGEST_SNOOZE_SECONDS:
            return None
        return self._clock.now() + timedelta(seconds=seconds)

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A structured logger that knows the job, the attempt and the worker."""
        if self._log is None:
            job = self._claim.job
            self._log = structlog.stdlib.get_logger("trioqueue.handler").bind(
                job_id=job.id, type=job.type, attempt=job.attempt, worker=self.worker
            )
        return self._log

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell watchers how far the job is; shown as the job's `progress` until the next attempt.

        Raises `LeaseLost` when this attempt does not hold the job any more, ValueError for a message
        that is too long. While the store is away it is passed over.
        """
        said = {"done": done, "total": total, "message": message}
        text = codec.encode({key: value for key, value in said.items() if value is not None})
        if len(text) > LONGEST_PROGRESS_BYTES:
            raise ValueError(f"progress has {len(text)} bytes; at most {LONGEST_PROGRESS_BYTES} are kept")
        with suppress(StoreUnavailable):  # a courtesy to watchers; the job does not wait for it
            await self._store.progress(self._claim, text)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A transaction in the store's database that completes the job: both are committed, or neither.

        Yields the driver's connection (of psycopg: an `AsyncConnection`), for use inside the block
        only. When the block ends the job is completed, and cannot fail any more, whatever the
        handler does afterwards. An error or a cancellation inside the block rolls everything back.

        Raises `LeaseLost` when this attempt does not hold the job any more: everything is rolled
        back. `StoreUnavailable` when the server cannot be reached, `NotSupported` on a store that
        is no PostgreSQL, RuntimeError inside of another transaction, or after one was committed.
        """
        if self._held.settled is not None:
            raise RuntimeError("the job is completed: its transaction has been committed")
        if self._in_transaction:
            raise RuntimeError("the attempt is in a transaction already; use its connection")
        self._in_transaction = True
        completion: Completion | None = None
        try:
            async with self._store.transaction(self._claim, worker=self.worker) as completion:
                self._completion = completion
                yield completion.connection
        finally:
            self._completion, self._in_transaction = None, False
            if completion is not None and completion.job is not None:
                self._held.settle(completion.job)

    def set_result(self, value: object) -> None:
        """What the job completes with, instead of a return value. Only inside the block of a `transaction`.

        Raises `MalformedJson` for a value that cannot be kept, RuntimeError outside of a block.
        """
        if self._completion is None:
            raise RuntimeError("set_result() belongs inside of `async with ctx.transaction()`")
        self._completion.result = encode_result(value, self._max_result_bytes)

    def snooze(self, seconds: float, reason: str | None = None) -> NoReturn:
        """End this attempt now and run the job again in `seconds`; it costs no attempt."""
        if not 0 <= seconds <= LONGEST_SNOOZE_SECONDS:
            raise ValueError(f"snooze({seconds!r}): seconds from 0 to {LONGEST_SNOOZE_SECONDS} are expected")
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"snooze(reason={reason!r}): a text is expected")
        raise SnoozeRequested(float(seconds), None if reason is None else first_line(reason))

    async def run_process(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        stdin: bytes = b"",
        check: bool = True,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a process group of its own; see `runtime.processes.run_process`.

        When the attempt is cancelled the command ends first, with all its descendants.
        """
        return await self._spawner.run_process(
            command,
            stdin=stdin,
            check=check,
            cwd=cwd,
            env=env,
            in_a_hurry=lambda: self._held.cause is Cause.STOP,
        )

    def check_cancelled(self) -> None:
        """For plain functions in threads: stop here if the attempt was cancelled.

        Call it in loops. A thread cannot be stopped from outside; one that never asks runs on.
        """
        trio.from_thread.check_cancelled()

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """`progress` for plain functions in threads."""
        trio.from_thread.run(self.progress, done, total, message)
