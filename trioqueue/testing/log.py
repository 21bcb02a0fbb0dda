"""The events of a test, in the order in which they happened, with the time at which each did."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import trio

from trioqueue.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    Event,
    JobEnqueued,
    NodeStarted,
)
from trioqueue.jobs.job import Job, JobId
from trioqueue.jobs.outcome import first_line

Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event, and the wall time of the test when it was published."""

    at: datetime
    event: Event


class EventLog:
    """Every event that a node of the test has published. Iterates over the events."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._records: list[Recorded] = []
        self._returned: set[int] = set()
        """The places of those that somebody has waited for."""
        self._types: defaultdict[JobId, str] = defaultdict(lambda: "unknown")
        self._news = trio.Event()

    def __repr__(self) -> str:
        return f"<EventLog of {len(self)}>"

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Event]:
        return (record.event for record in self._records)

    @property
    def records(self) -> list[Recorded]:
        return list(self._records)

    @property
    def types(self) -> Mapping[JobId, str]:
        """The type of every job that was mentioned."""
        return self._types

    def record(self, event: Event) -> None:
        if isinstance(event, JobEnqueued | AttemptStarted):
            self._types[event.job.id] = event.job.type
        self._records.append(Recorded(self._now(), event))
        news, self._news = self._news, trio.Event()
        news.set()

    def of(self, kind: type[Kind], **fields: object) -> list[Kind]:
        """Those of one kind, as in `of(AttemptEnded, type="charge", outcome="failed")`.

        `fields` are the event's own or its job's; `job` and `job_id` take a job or an id.
        """
        return [event for event in self if isinstance(event, kind) and matches(event, fields)]

    def since(self, place: int) -> list[Event]:
        """What was recorded after the first `place` events."""
        return [record.event for record in self._records[place:]]

    async def longer_than(self, length: int) -> None:
        """Wait until there are more events than these."""
        while len(self) <= length:
            await self._news.wait()

    async def first(self, kind: type[Kind], **fields: object) -> Kind:
        """Wait for an event; each is returned once only, so one that has just happened is not missed."""
        begin = 0
        while True:
            for place, event in enumerate(self.since(begin), begin):
                if place not in self._returned and isinstance(event, kind) and matches(event, fields):
                    self._returned.add(place)
                    return event
            begin = len(self)
            await self.longer_than(begin)

    def text(self, last: int = 200) -> str:
        """One line for each event, the last ones when there are too many."""
        left_out = max(len(self._records) - last, 0)
        lines = [f"… {left_out} earlier events"] if left_out else []
        lines += [
            f"{record.at:%Y-%m-%d %H:%M:%S.%f} {line(record.event)}" for record in self._records[-last:]
        ]
        return "\n".join(lines) or "nothing has happened"


def matches(event: Event, fields: dict[str, object]) -> bool:
    """Whether the event, or its job, has these values."""
    job = getattr(event, "job", None)
    for name, wanted in fields.items():
        if name in ("job", "job_id"):
            known = [job.id] if isinstance(job, Job) else getattr(event, "job_ids", None)
            known = known if known is not None else [getattr(event, "job_id", None)]
            if getattr(wanted, "id", wanted) not in known:
                return False
        elif hasattr(event, name):
            if getattr(event, name) != wanted:
                return False
        elif getattr(job, name, None) != wanted:
            return False
    return True


def line(event: Event) -> str:
    """An event in one line, with what a reader looks for first."""
    name = type(event).__name__
    match event:
        case JobEnqueued(job=job):
            return f"{name} {words(job)} due {job.run_at:%Y-%m-%d %H:%M:%S}"
        case AttemptStarted(job=job, node=node, worker=worker):
            return f"{name} {words(job)} attempt {job.attempt} on {node}, worker {worker}"
        case AttemptEnded(job=job, outcome=outcome, status=status, seconds=seconds):
            why = f": {first_line(job.reason)}" if job.reason else ""
            return f"{name} {words(job)} {outcome} after {seconds:.3g} s, now {status}{why}"
        case AttemptLost(job=job, outcome=outcome, node=node):
            return f"{name} {words(job)} on {node}, {outcome}: dropped"
        case NodeStarted(node=node, workers=workers, types=types):
            return f"{name} {node} with {workers} workers for {', '.join(types)}"
    fields = {field: getattr(event, field) for field in event.__struct_fields__}
    return f"{name} " + " ".join(f"{field}={shown(value)}" for field, value in fields.items())


def shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return first_line(text)[:200]


def words(job: Job) -> str:
    return f"{job.type} {job.id[-12:]}"
