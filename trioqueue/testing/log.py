"""The events of a test, in the order in which they happened, with the time at which each did."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import EnumType
from typing import Any, TypeVar, get_args

import msgspec
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
from trioqueue.testing.errors import unknown
from trioqueue.testing.jobs import as_json, json_misses
from trioqueue.testing.perform import decoded

E = TypeVar("E", bound=Event)

JOB_FIELDS = {"job", "jobs"}
JSON_FIELDS = ("payload", "result", "progress")


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
        """The events, each with the time when it was published."""
        return list(self._records)

    @property
    def types(self) -> Mapping[JobId, str]:
        """The type of every job that was mentioned."""
        return self._types

    def record(self, event: Event) -> None:
        """Write an event down, now, and wake whoever waits for it. For nodes to call."""
        if isinstance(event, JobEnqueued | AttemptStarted):
            self._types[event.job.id] = event.job.type
        self._records.append(Recorded(self._now(), event))
        news, self._news = self._news, trio.Event()
        news.set()

    def of(self, event_class: type[E], **fields: object) -> list[E]:
        """Those of one class, as in `of(AttemptEnded, type="charge", outcome="failed")`.

        `fields` are the event's own or its job's; `job` and `job_id` take a job or an id. A `payload`,
        `result` or `progress` may be a part, as in `assert_enqueued`. Raises TypeError for fields that
        neither the event nor its job has, ValueError for an outcome or a status that there is none of.
        """
        fields = wanted_fields(event_class, fields)
        return [event for event in self if isinstance(event, event_class) and matches(event, fields)]

    def since(self, place: int) -> list[Event]:
        """What was recorded after the first `place` events."""
        return [record.event for record in self._records[place:]]

    async def longer_than(self, length: int) -> None:
        """Wait until there are more events than these."""
        while len(self) <= length:
            await self._news.wait()

    async def first(self, event_class: type[E], **fields: object) -> E:
        """Wait for an event; each is returned once only, so one that has just happened is not missed.

        Raises as `of` does.
        """
        fields = wanted_fields(event_class, fields)
        begin = 0
        while True:
            for place, event in enumerate(self.since(begin), begin):
                if place not in self._returned and isinstance(event, event_class) and matches(event, fields):
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


def wanted_fields(event_class: Any, fields: Mapping[str, object]) -> dict[str, object]:
    """The fields to look for, with JSON as it is found there. Raises for what no such event can have."""
    if event_class not in get_args(Event):
        said = event_class.__name__ if isinstance(event_class, type) else repr(event_class)
        raise TypeError(f"{said} is no event; there are {', '.join(e.__name__ for e in get_args(Event))}")
    own = {field.name: field.type for field in msgspec.structs.fields(event_class)}
    own |= {name: object for name, value in vars(event_class).items() if isinstance(value, property)}
    of_job = {field.name: field.type for field in msgspec.structs.fields(Job)} if "job" in own else {}
    known = {**of_job, **own, **(dict.fromkeys(("job", "job_id")) if own.keys() & JOB_FIELDS else {})}
    for name, value in fields.items():
        if name not in known:
            raise TypeError(f"of {event_class.__name__} {unknown(name, known)}")
        choices = known[name]
        if isinstance(choices, EnumType) and value not in list(choices):
            raise ValueError(f"{value!r} is no {name}; there are {', '.join(choices)}")
    return {name: as_json(value) if _is_value(name, value) else value for name, value in fields.items()}


def _is_value(name: str, value: object) -> bool:
    """Whether it is to be looked for in JSON that a job keeps. Bytes are its text."""
    return name in JSON_FIELDS and not isinstance(value, bytes)


def matches(event: Event, fields: Mapping[str, object]) -> bool:
    """Whether the event, or its job, has these values."""
    job = getattr(event, "job", None)
    for name, wanted in fields.items():
        if name in ("job", "job_id"):
            known = [job.id] if isinstance(job, Job) else getattr(event, "job_ids", [])
            if getattr(wanted, "id", wanted) not in known:
                return False
        elif hasattr(event, name):
            if getattr(event, name) != wanted:
                return False
        elif _is_value(name, wanted):
            if json_misses(wanted, decoded(getattr(job, name)), name):
                return False
        elif getattr(job, name) != wanted:
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
    if isinstance(value, Job):
        return words(value)
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"[:200]
    text = value if isinstance(value, str) else repr(value)
    return first_line(text)[:200]


def words(job: Job) -> str:
    return f"{job.type} {job.id[-12:]}"
