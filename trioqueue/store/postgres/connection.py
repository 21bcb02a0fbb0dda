"""psycopg connections for Trio, opening one, and what their errors mean.

Law: a connection that was interrupted is either known to be usable, or closed. Works behind a
pooler in transaction mode: no session state, no prepared statements.
"""

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import psycopg
import trio
from psycopg import generators
from psycopg.abc import RV, ConnDict, PQGen
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo, timeout_from_conninfo
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn
from psycopg.rows import TupleRow, tuple_row
from psycopg.waiting import Wait

from trioqueue.clock import held_clock
from trioqueue.errors import ConfigError, StoreBusy, StoreUnavailable
from trioqueue.store.postgres.transaction import TrioTransaction
from trioqueue.store.postgres.waiting import poll, until_connected, until_done

CLEANUP_SECONDS = 1.0
"""How long an interrupted connection may take to become usable again. After that it is closed."""

DEFAULTS: ConnDict = {
    "application_name": "trioqueue",
    "client_encoding": "utf8",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
CALL_LIMITS = "-c statement_timeout=10s -c idle_in_transaction_session_timeout=30s -c lock_timeout=1s"
"""For our own calls: none of them takes long, and none may hold up others when nobody waits for it."""

NO_LIMITS = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=0"
"""For handlers: theirs take as long as their attempt may take, and that is the node's affair."""

WATCH = (
    "-c client_connection_check_interval=2s -c tcp_user_timeout=15s "
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
"""How soon the server is to notice that a node is gone, and to let go of what it holds."""

PLAN = "-c jit=off"
"""Compiling a query takes longer than any of ours runs."""


class TrioConnection(psycopg.AsyncConnection[TupleRow]):
    """A psycopg connection for Trio. Every statement commits, unless it is in a `transaction()`.

    When a statement is cancelled the server is told to stop it, and the connection stays usable;
    if the server does not obey within `CLEANUP_SECONDS`, the connection is closed.
    """

    give_up_at: float = math.inf
    """On Trio's clock. From then on the server is asked for nothing more, not even to stop."""

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = trio.Lock()  # type: ignore[assignment]  # psycopg only says `async with`
        self._autocommit = True
        self.prepare_threshold = None
        # Behind a pooler anybody may receive what somebody else listens to. Keep none of it.
        self.add_notify_handler(_ignore)

    @classmethod
    async def connect(cls, conninfo: str = "", **parameters: Any) -> Self:
        """Try each address of each host in turn; the caller's deadline is shared out among them."""
        params = conninfo_to_dict(conninfo, **parameters)
        limit = timeout_from_conninfo(params)
        # A limiter of its own: names must be resolved although other people's threads are busy.
        limiter = trio.CapacityLimiter(1)
        attempts = await trio.to_thread.run_sync(
            conninfo_attempts, params, abandon_on_cancel=True, limiter=limiter
        )
        error = psycopg.OperationalError("no host was named")
        for number, attempt in enumerate(attempts):
            rest = trio.current_effective_deadline() - trio.current_time()
            with trio.move_on_after(max(0, min(limit, rest / (len(attempts) - number)))) as scope:
                try:
                    return await until_connected(cls._connect_gen(make_conninfo("", **attempt)))
                except psycopg.OperationalError as refused:
                    error = refused
            if scope.cancelled_caught:
                error = psycopg.errors.ConnectionTimeout("the server did not answer in time")
        await trio.lowlevel.checkpoint_if_cancelled()
        raise error

    async def wait(self, gen: PQGen[RV], *_: Any, **__: Any) -> RV:
        """Go through with one of psycopg's generators. Cancelled before it has begun, it does not begin.

        Virtual time stands still meanwhile. psycopg's other parameters are an interval that Trio does
        not need, and a timeout for `notifies()`.
        """
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with held_clock():
                return await until_done(gen, self.pgconn.socket)
        except (trio.Cancelled, KeyboardInterrupt):
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._stop(gen)  # noqa: ASYNC102 — shielded by cleanup()
            raise

    async def _stop(self, gen: PQGen[Any]) -> None:
        if trio.current_time() >= self.give_up_at:
            return self.discard()
        with self.cleanup():
            try:
                await self.cancel_safe()
                await until_done(gen, self.pgconn.socket)
            except psycopg.Error as error:
                if error.sqlstate is None:  # not the server's answer, but no answer
                    self.discard()

    async def cancel_safe(self, *, timeout: float = CLEANUP_SECONDS) -> None:  # noqa: ASYNC109 — psycopg's
        """Ask the server to stop the statement that runs; returns when it has taken note.

        `NotSupportedError` with a libpq before 17, whose request blocks the process.
        """
        if self._should_cancel() and psycopg.capabilities.has_cancel_safe(check=True):
            with trio.move_on_after(timeout) as scope:
                request = self.pgconn.cancel_conn()
                request.start()
                await until_connected(generators.cancel(request))
            if scope.cancelled_caught:
                raise psycopg.errors.CancellationTimeout("the server did not take note in time")

    async def _try_cancel(self, **_: Any) -> None:
        """Called by psycopg where it cleans up, in tasks that may be cancelled: hence the shield."""
        with self.cleanup(), suppress(psycopg.Error):
            await self.cancel_safe()

    @contextmanager
    def cleanup(self) -> Iterator[None]:
        """Talk to the server although cancelled. When that takes too long, the connection is closed."""
        before = self.give_up_at
        self.give_up_at = min(before, trio.current_time() + CLEANUP_SECONDS)
        with trio.CancelScope(shield=True, deadline=self.give_up_at) as scope:
            try:
                yield
            finally:
                self.give_up_at = before
        if scope.cancelled_caught:
            self.discard()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """A transaction, or a savepoint within one, as psycopg's; rolled back even when cancelled.

        Who is cancelled while COMMIT is under way does not learn whether it happened.
        """
        transaction = TrioTransaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), transaction, self.pipeline():
                yield transaction
        else:
            async with transaction:
                yield transaction

    def notifies(
        self, *, timeout: float | None = None, stop_after: int | None = None
    ) -> AsyncGenerator[psycopg.Notify]:
        """Refused: it holds the lock while its caller's code runs, and for ever after a `break`."""
        raise psycopg.NotSupportedError("notifies() cannot be used on Trio; use a handler")

    @property
    def is_quiet(self) -> bool:
        """Open, and nothing to read: to an idle client a server speaks only when it goes away."""
        return not self.closed and not poll(self.pgconn.socket, Wait.R)

    @property
    def is_reusable(self) -> bool:
        """Whether somebody else may have it: open, in no transaction and no pipeline."""
        return (
            not self.closed
            and self._pipeline is None
            and self.pgconn.pipeline_status == PipelineStatus.OFF
            and self.pgconn.transaction_status == TransactionStatus.IDLE
        )

    def discard(self) -> None:
        """Close it at once, whatever runs on it. Who waits for an answer gets an OperationalError."""
        if not self.closed:
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self._closed = True
        self.pgconn.finish()

    async def close(self) -> None:
        self.discard()
        await trio.lowlevel.checkpoint()

    async def __aexit__(self, *exception: Any) -> None:
        try:
            await super().__aexit__(*exception)  # noqa: ASYNC102 — closed all the same
        finally:
            self.discard()


class Server:
    """Where to connect to, and what has been learnt about it."""

    def __init__(self, url: str, *, limits: str = CALL_LIMITS) -> None:
        self._given = _parameters(url)
        # A system may not know how to watch, and a pooler may refuse all: then the next one is tried.
        self._options = [f"{limits} {WATCH} {PLAN}", f"{limits} {PLAN}", ""]

    async def connect(self, *, within: float) -> TrioConnection:
        """A new connection with our defaults, or `StoreUnavailable`, at the latest after `within` seconds."""
        try:
            with held_clock(), trio.fail_after(within):
                while True:
                    options = self._options[0]
                    try:
                        return await TrioConnection.connect(self._conninfo(options))
                    except psycopg.OperationalError as error:
                        if not options or not _refuses_options(str(error)):
                            raise
                        if options in self._options:  # nobody else has learnt it meanwhile
                            self._options.remove(options)
        except trio.TooSlowError:
            raise StoreUnavailable(f"no connection within {within:g} s") from None
        except UnicodeError:  # a host name that cannot be looked up
            raise StoreUnavailable("the host's name is not one") from None
        except (psycopg.Error, OSError) as error:
            raise unavailable(error) or StoreUnavailable(_first_line(error)) from None

    def _conninfo(self, options: str) -> str:
        given = self._given
        options = f"{options} {given.get('options', '')}".strip()
        return make_conninfo("", **{**DEFAULTS, **given, "options": options or None})


def _parameters(url: str) -> ConnDict:
    """What a URL says, or `ConfigError`, without libpq's own words: they may quote the password."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error as error:
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        problem = f"it has no parameter {unknown[1]!r}" if unknown else "it is not a URL of libpq's"
        raise ConfigError([f"the URL of the PostgreSQL store cannot be used: {problem}"]) from None
    if "@" in str(given.get("host", "")):
        problem = "it has an @ too many; in a password, write %40 for @, %2F for / and %3A for :"
        raise ConfigError([f"the URL of the PostgreSQL store cannot be used: {problem}"])
    return given


async def connect(conninfo: str, *, within: float) -> TrioConnection:
    """One connection, as `Server` makes them. Whoever connects again and again keeps a `Server`."""
    return await Server(conninfo).connect(within=within)


def _refuses_options(text: str) -> bool:
    return any(words in text for words in ("startup parameter", "client_connection_check", "tcp_"))


LOCK_NOT_AVAILABLE = "55P03"

REASONS = {
    "25006": "the server is read-only (a replica?)",
    "25P03": "the server ended a transaction that had been idle too long",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has too many connections",
    "57014": "a statement took too long, or somebody stopped it",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed and restarts",
    "57P03": "the server is starting or shutting down",
    "08": "the connection to the server was lost",
    "40": "another transaction was in the way",
    "53": "the server is out of resources",
    "57": "the server was told to stop",
    "58": "the server cannot read or write its files",
}
"""What people are told, by SQLSTATE or by its class. Errors that are not here are ours."""


def unavailable(error: psycopg.Error | OSError) -> StoreUnavailable | None:
    """The error in plain words, if whoever asks next would get it too, or if a retry cures it.

    None when the statement is wrong: such errors are to be raised as they are.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate:
        if error.sqlstate == LOCK_NOT_AVAILABLE:
            return StoreBusy("somebody else's transaction holds what is needed, perhaps a unique key")
        reason = REASONS.get(error.sqlstate) or REASONS.get(error.sqlstate[:2])
        return StoreUnavailable(reason) if reason else None
    lost = isinstance(error, psycopg.InterfaceError) and "connection" in str(error)
    if lost or isinstance(error, psycopg.OperationalError | OSError):
        return StoreUnavailable(_first_line(error))
    return None


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Raise `StoreUnavailable` for what is the server's trouble and not that of the query."""
    try:
        yield
    except psycopg.Error as error:
        if (reason := unavailable(error)) is not None:
            raise reason from error
        raise


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Raise `StoreUnavailable` when the block takes longer."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise StoreUnavailable(f"no answer within {seconds:g} s") from None


def is_retryable(error: psycopg.Error) -> bool:
    """A deadlock or a serialization failure: it did not happen, and may be repeated at once."""
    return (error.sqlstate or "").startswith("40") and error.sqlstate != "40003"  # 40003: not known


def _ignore(notify: psycopg.Notify) -> None:
    pass


def _first_line(error: Exception) -> str:
    return str(error).removeprefix("connection failed: ").strip().split("\n")[0]
