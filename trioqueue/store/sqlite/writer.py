"""The one writer of a process: group commit.

The law of this file: an operation's caller is answered after the commit and the flush that its
changes were part of, and not before. Whatever was submitted while the last commit ran goes into
the next one, so a flush is shared by all who wait for it. No timer makes anybody wait for company.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw
import outcome
import trio

from trioqueue.clock import Clock, RunSync
from trioqueue.errors import StoreUnavailable
from trioqueue.store.sql import Queries
from trioqueue.store.sqlite.connection import STORE_ERRORS, close, connect_writer, unavailable
from trioqueue.store.sqlite.transaction import Transaction

T = TypeVar("T")

Operation = Callable[[Transaction], T]
"""Reads and writes inside the group's transaction. May be run twice: the first run is then undone."""

Answer = outcome.Outcome[Any]
"""What one operation returned or raised; operations of every type share a batch."""

BATCH = 500
"""At most so many operations in one transaction, so that other processes get their turn."""

TURNS = 4
"""Turns of the loop in which those who were just answered may come back before the next commit."""


class InDoubt(StoreUnavailable):
    """The write failed so that nobody knows whether it was committed before: look before you repeat it.

    Its reason begins with `no answer`, by which clients tell it from a write that did not happen.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"no answer: {reason}")


@dataclass(slots=True, eq=False)
class Submitted:
    """An operation in the queue, and the task that waits for its answer."""

    operation: Operation[Any]
    task: trio.lowlevel.Task


class Writer:
    """Runs submitted operations in shared transactions."""

    def __init__(
        self, path: Path, queries: Queries, clock: Clock, run_sync: RunSync[Any], *, flushed: bool = True
    ) -> None:
        self._path = path
        self._queries = queries
        self._clock = clock
        self._run_sync = run_sync
        self._flushed = flushed
        self._connection: apsw.Connection | None = None
        self._queue: deque[Submitted] = deque()
        self._submitted = trio.Event()
        self._closing = False
        self._locked_out: apsw.Error | None = None
        """Why the last batch never began, until those who queued behind it were told."""

    def __repr__(self) -> str:
        return f"<Writer {self._path} {len(self._queue)} queued>"

    async def submit(self, operation: Operation[T]) -> T:
        """Run `operation` in the next transaction; returns its value once that is on the disk.

        Cancelled while it is queued, the operation is withdrawn. Cancelled later, this returns
        all the same: what has happened must be learnt.
        """
        if self._closing:
            raise StoreUnavailable("it is closed")
        submitted = Submitted(operation, trio.lowlevel.current_task())
        self._queue.append(submitted)
        self._submitted.set()

        def withdraw(_: object) -> trio.lowlevel.Abort:
            if submitted not in self._queue:
                return trio.lowlevel.Abort.FAILED
            self._queue.remove(submitted)
            return trio.lowlevel.Abort.SUCCEEDED

        return cast(T, await trio.lowlevel.wait_task_rescheduled(withdraw))

    # An interrupt that hit this loop would leave tasks waiting for ever; Trio raises it elsewhere.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Commit batch after batch, until `close()` and the queue is empty."""
        with trio.CancelScope(shield=True):
            while self._queue or not self._closing:
                if self._queue:
                    await self._commit_next()
                else:
                    self._submitted = trio.Event()
                    await self._submitted.wait()
            await self._run_sync(partial(close, self._connection))

    def close(self) -> None:
        """Take nothing more; `run()` ends when what is queued has been committed."""
        self._closing = True
        self._submitted.set()

    async def _commit_next(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
        operations = [submitted.operation for submitted in batch]
        try:
            answers = await self._run_sync(partial(self._commit, operations))
        except Exception as error:  # no thread to be had: those who wait must be told
            answers = [outcome.Error(InDoubt(f"the write broke off ({error})")) for _ in operations]
        for submitted, answer in zip(batch, answers, strict=True):
            trio.lowlevel.reschedule(submitted.task, answer)
        if self._locked_out is not None:
            self._refuse_all(self._locked_out)
        await self._let_return(len(batch))

    def _refuse_all(self, error: apsw.Error) -> None:
        """Those who came while the lock was waited for: their own wait on top would keep clients too long."""
        self._locked_out = None
        while self._queue:
            trio.lowlevel.reschedule(self._queue.popleft().task, outcome.Error(unavailable(error)))

    async def _let_return(self, answered: int) -> None:
        """Workers that have settled one job soon settle the next. Let them catch this transaction.

        Without this, ten busy workers fall into two halves that take turns, and each flush is
        shared by five: on a disk that is slow to flush, half the throughput.
        """
        expected = len(self._queue) + answered
        for _ in range(TURNS):
            if len(self._queue) < expected and not self._closing:
                await trio.lowlevel.checkpoint()

    def _commit(self, operations: Sequence[Operation[Any]]) -> list[Answer]:
        """One answer for each operation. Blocks; raises nothing."""
        try:
            try:
                return self._transact(_run, operations)
            except _Spoilt:
                return self._transact(_run_apart, operations)
        except STORE_ERRORS as error:
            if isinstance(error, apsw.BusyError):
                self._locked_out = error
            if isinstance(error, apsw.BusyError | apsw.FullError):
                return [outcome.Error(unavailable(error)) for _ in operations]
            close(self._connection)
            self._connection = None  # the next batch connects anew, and may find that this one was kept
            return [outcome.Error(InDoubt(unavailable(error).reason)) for _ in operations]
        except Exception as error:
            return [outcome.Error(error) for _ in operations]

    def _transact(
        self,
        run: Callable[[Transaction, Operation[Any]], Answer],
        operations: Sequence[Operation[Any]],
    ) -> list[Answer]:
        with self._transaction() as transaction:
            return [run(transaction, operation) for operation in operations]

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        if self._connection is None:
            self._connection = connect_writer(self._path, flushed=self._flushed)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read after the lock is held: what another process wrote while we waited is in the past.
            transaction = Transaction(connection, self._queries, self._clock.now())
            yield transaction
            transaction.write_counters()
            connection.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors; to ask again would hide the first.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


class _Spoilt(Exception):
    """An operation failed after it had written: the transaction holds half of it."""


def _run(transaction: Transaction, operation: Operation[Any]) -> Answer:
    """The usual way, at no cost. Operations check before they write, so `LeaseLost` spoils nothing."""
    written = transaction.connection.total_changes()
    try:
        return outcome.Value(operation(transaction))
    except STORE_ERRORS:
        raise
    except Exception as error:
        if transaction.connection.total_changes() != written:
            raise _Spoilt from error
        return outcome.Error(error)


def _run_apart(transaction: Transaction, operation: Operation[Any]) -> Answer:
    """Under a savepoint of its own, so that only the guilty operation is undone."""
    changes = transaction.changes.copy()
    try:
        with transaction.connection:
            value = operation(transaction)
        return outcome.Value(value)
    except STORE_ERRORS:
        raise
    except Exception as error:
        transaction.changes = changes
        return outcome.Error(error)
