"""The block of a transaction, with an exit that works in a cancelled task."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, cast

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus


class Connection(Protocol):
    """What a transaction needs beyond psycopg's connection."""

    def cleanup(self) -> AbstractContextManager[None]: ...
    def discard(self) -> None: ...


class TrioTransaction(psycopg.AsyncTransaction):
    """psycopg's own, but whatever happens in the block, the connection ends up idle or closed.

    Trio cancels again at every wait, also in an exit: so BEGIN, COMMIT and ROLLBACK may each not
    be sent at all. What has to be undone is undone under a shield, for a bounded time.
    """

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], name: str | None, force_rollback: bool
    ) -> None:
        super().__init__(connection, name, force_rollback)
        self._trio = cast(Connection, connection)

    async def __aenter__(self) -> Self:
        async with self._conn.lock:
            try:
                await self._conn.wait(self._enter_gen())
            except BaseException as error:
                begun = self.status is self.Status.ACTIVE
                if begun and self.pgconn.status == ConnStatus.OK:
                    with self._trio.cleanup():
                        await self._conn.wait(self._exit_gen(type(error), error, None))  # noqa: ASYNC102
                self._discard_unless_idle()
                raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        try:
            if exc_val is None and not self.force_rollback:
                return await self._commit()  # noqa: ASYNC102 — it may be cancelled
            return await self._roll_back(exc_val)  # noqa: ASYNC102 — shielded by cleanup()
        finally:
            self._discard_unless_idle()

    async def _commit(self) -> bool:
        try:
            return await super().__aexit__(None, None, None)
        except BaseException as error:
            if self.status is self.Status.ACTIVE:  # cancelled before COMMIT was sent
                await self._roll_back(error)  # noqa: ASYNC102
            raise

    async def _roll_back(self, error: BaseException | None) -> bool:
        swallow = False
        with self._trio.cleanup():
            swallow = await super().__aexit__(type(error) if error else None, error, None)
        return bool(swallow)

    def _discard_unless_idle(self) -> None:
        """Savepoints leave it to the outer transaction; a pipeline has not asked the server yet."""
        ours = self._outer_transaction and self._conn._pipeline is None
        if ours and self.pgconn.transaction_status != TransactionStatus.IDLE:
            self._trio.discard()
