"""Waits for what a test expects, and says why when it does not come."""

from collections.abc import Mapping

import trio

from trioqueue.clock import is_virtual
from trioqueue.jobs.job import JobId
from trioqueue.testing.clock import Duration, seconds_of
from trioqueue.testing.cluster import Cluster
from trioqueue.testing.errors import NeverHappened
from trioqueue.testing.jobs import SeenJob, seen
from trioqueue.testing.log import E

A_CENTURY = 100 * 365 * 86_400.0
"""Of virtual time: as good as for ever, and it ends."""

REAL_SECONDS = 30.0


def patience(within: Duration | None) -> float:
    """How many seconds a test waits, unless it says it itself."""
    if within is not None:
        return seconds_of(within)
    return A_CENTURY if is_virtual() else REAL_SECONDS


async def until_finished(cluster: Cluster, job_id: JobId, *, within: Duration | None) -> SeenJob:
    """The job when it has ended; `NeverHappened` when it has not."""
    cluster.check_running("tq.finished()")
    store = await cluster.observer()
    current = seen(await store.get(job_id))
    cluster.stir()
    seconds = patience(within)
    with trio.move_on_after(seconds):
        while not current.is_final:
            length = len(cluster.events)
            current = seen(await store.get(job_id))
            if not current.is_final:
                await cluster.events.longer_than(length)
    if not current.is_final:
        due = f", due {current.run_at:%Y-%m-%d %H:%M:%S}" if current.status == "pending" else ""
        what = f"job {job_id} ({current.type}) is {current.status}{due}"
        raise NeverHappened(what, seconds, is_virtual=is_virtual(), remedy=_remedy(cluster, current.type))
    return current


async def until_happened(
    cluster: Cluster, event_class: type[E], fields: Mapping[str, object], *, within: Duration | None
) -> E:
    """The event; `NeverHappened` when there was none."""
    cluster.check_running("tq.wait_for()")
    cluster.stir()
    seconds = patience(within)
    with trio.move_on_after(seconds):
        return await cluster.events.first(event_class, **fields)
    said = ", ".join(f"{name}={getattr(value, 'id', value)!r}" for name, value in fields.items())
    alike, others = len(cluster.events.of(event_class, **fields)), len(cluster.events.of(event_class))
    what = f"there is no {'other ' * (alike > 0)}{event_class.__name__}{' with ' * bool(said)}{said}"
    if others > alike:
        what += f", and {others - alike} that are not like this"
    type = fields.get("type")
    remedy = _remedy(cluster, type if isinstance(type, str) else None)
    raise NeverHappened(what, seconds, is_virtual=is_virtual(), remedy=remedy)


def _remedy(cluster: Cluster, type: str | None) -> str | None:
    if not cluster.nodes:
        return "no node is working: `await tq.start()`, or use `tq.drain()`"
    if type is not None and type not in cluster.types:
        return f"no node that works has a handler for {type}"
    return None
