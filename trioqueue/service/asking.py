"""What every question to the store has in common: that it could not be reached is published.

Readiness and the log must not learn it later than the caller.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from trioqueue.errors import StoreBusy, StoreUnavailable
from trioqueue.events import Events, StoreFailed
from trioqueue.jobs.job import NodeId


class Asking:
    """For a block in which a verb of `node` asks the store."""

    def __init__(self, node: NodeId, events: Events) -> None:
        self._node = node
        self._events = events

    def __repr__(self) -> str:
        return f"<Asking {self._node}>"

    @contextmanager
    def __call__(self, call: str) -> Iterator[None]:
        """`call` is what the event says was tried."""
        try:
            yield
        except StoreBusy:  # by somebody else's transaction: the store is well
            raise
        except StoreUnavailable as error:
            self._events.publish(StoreFailed(node=self._node, call=call, reason=error.reason))
            raise
