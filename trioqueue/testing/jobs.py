"""Jobs as a test looks at them: decoded, found by what they are like, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from trioqueue.jobs import codec
from trioqueue.jobs.job import Job, Status
from trioqueue.testing.clock import Duration, seconds_of
from trioqueue.testing.errors import unknown
from trioqueue.testing.perform import decoded

SHOWN = 50
PAYLOAD_CHARACTERS = 60
FIELDS: Mapping[str, type] = {"queue": str, "status": str, "unique_key": str, "priority": int}
MEANT = {"delay": "run_in", "delay_seconds": "run_in", "within": "tolerance"}
"""What is asked for by another name than when it is enqueued."""

ANYTHING: Any = object()
"""The value of a key that must be there, whatever it holds."""


class SeenJob(Job, frozen=True, kw_only=True):
    """A job whose payload, result and progress are values, not JSON text."""

    payload: Any  # any JSON value
    result: Any  # any JSON value
    progress: Any  # any JSON value


def seen(job: Job) -> SeenJob:
    fields = {name: getattr(job, name) for name in Job.__struct_fields__}
    for name in ("payload", "result", "progress"):
        fields[name] = decoded(fields[name])
    return SeenJob(**fields)


class Query(TypedDict, total=False):
    """What a job may be asked for, besides its type and payload."""

    queue: str
    status: str
    """As it is now. Without it a job counts whatever has become of it."""
    run_at: datetime | str
    """When it is due: then, give or take `tolerance`."""
    run_in: Duration
    """The same, counted from now."""
    tolerance: Duration
    """A second, unless said otherwise."""
    tags: Sequence[str]
    """All of these, perhaps among others."""
    unique_key: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a job must be like. None: whatever it is."""

    type: str | None
    payload: object
    run_at: datetime | None
    tolerance: timedelta
    tags: Sequence[str]
    fields: Mapping[str, object]

    @classmethod
    def like(cls, type: str | None, payload: object, query: Query, *, now: datetime) -> "Wanted":
        """What a test has asked for, at this time. Raises TypeError or ValueError for what no job can be."""
        return cls(
            type=type,
            payload=_wanted_payload(payload),
            run_at=_wanted_time(query, now),
            tolerance=timedelta(seconds=seconds_of(query.get("tolerance", 1))),
            tags=_wanted_tags(query.get("tags", ())),
            fields=_wanted_fields(query),
        )

    def misses(self, job: SeenJob) -> list[str]:
        """What is wrong with `job`, in words; nothing when it is as wanted."""
        misses = [
            f"{name} is {getattr(job, name)!r}"
            for name, value in (("type", self.type), *self.fields.items())
            if value is not None and getattr(job, name) != value
        ]
        misses += [f"tag {tag!r} is missing" for tag in self.tags if tag not in job.tags]
        misses += json_misses(self.payload, job.payload, "payload")
        if self.run_at is not None and abs(job.run_at - self.run_at) > self.tolerance:
            misses.append(f"run_at is {job.run_at.isoformat()}")
        return misses

    def __str__(self) -> str:
        said = {
            "type": self.type,
            "payload": self.payload or None,
            "run_at": None if self.run_at is None else self.run_at.isoformat(),
            "tags": list(self.tags) or None,
            **self.fields,
        }
        return (
            ", ".join(f"{name}={value!r}" for name, value in said.items() if value is not None) or "any job"
        )


def _wanted_payload(payload: object) -> object:
    wanted = {} if payload is None else as_json(payload)
    if not isinstance(wanted, dict) and wanted is not ANYTHING:
        raise TypeError(f"a payload is one dict, not {payload!r}")
    return wanted


def _wanted_time(query: Query, now: datetime) -> datetime | None:
    run_at = query.get("run_at")
    if "run_in" in query:
        if run_at is not None:
            raise ValueError("say run_at or run_in, not both")
        return now + timedelta(seconds=seconds_of(query["run_in"]))
    if isinstance(run_at, str):
        run_at = datetime.fromisoformat(run_at)
    if run_at is not None and run_at.tzinfo is None:
        raise ValueError(f"run_at={run_at.isoformat()} has no time zone")
    return run_at


def _wanted_tags(tags: Sequence[str]) -> Sequence[str]:
    if isinstance(tags, str):
        raise TypeError(f"tags are a list, like [{tags!r}]")
    return tags


def _wanted_fields(query: Query) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in query.items():
        if name not in Query.__annotations__:
            meant = f"; did you mean {MEANT[name]}?" if name in MEANT else None
            said = f"nothing is known of {name}{meant}" if meant else unknown(name, Query.__annotations__)
            raise TypeError(f"{said} A payload is one dict")
        if name == "status" and value not in list(Status):
            raise ValueError(f"{value!r} is no status; there are {', '.join(Status)}")
        if name in FIELDS:
            if not isinstance(value, FIELDS[name]):
                raise TypeError(f"{name}={value!r} is no {FIELDS[name].__name__}")
            fields[name] = value
    return fields


def as_json(value: object) -> object:
    """`value` as it is found in a job, where everything has become JSON. `ANYTHING` stays what it is."""
    if value is ANYTHING:
        return value
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else _key(name): as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return codec.decode_kept(codec.encode(value))


def _key(name: object) -> str:
    [text] = codec.decode_kept(codec.encode({name: None}))
    return str(text)


def json_misses(wanted: object, found: object, where: str) -> list[str]:
    """What is wanted must be there; objects may have more keys, lists may not have more items."""
    if wanted is ANYTHING:
        return []
    if isinstance(wanted, Mapping) and isinstance(found, dict):
        misses = []
        for key, value in wanted.items():
            if key not in found:
                misses.append(f"{where}.{key} is missing")
            else:
                misses += json_misses(value, found[key], f"{where}.{key}")
        return misses
    if isinstance(wanted, list | tuple) and isinstance(found, list):
        if len(wanted) != len(found):
            return [f"{where} has {len(found)} items"]
        pairs = zip(wanted, found, strict=True)
        return [miss for n, pair in enumerate(pairs) for miss in json_misses(*pair, f"{where}[{n}]")]
    return [] if wanted == found else [f"{where} is {found!r}"]


def nearest(wanted: Wanted, jobs: Sequence[SeenJob], how_many: int = 5) -> str:
    """The jobs that come closest, each with what is wrong with it."""
    rated = sorted(((wanted.misses(job), job) for job in jobs), key=lambda pair: len(pair[0]))
    lines = [f"  {job.type} {job.id[-12:]}: {', '.join(misses) or 'as wanted'}" for misses, job in rated]
    more = [f"  … and {len(lines) - how_many} others"] if len(lines) > how_many else []
    return "\n".join(lines[:how_many] + more) or "  there is no job at all"


def table(jobs: Sequence[SeenJob], *, more: bool = False) -> str:
    """The jobs, newest first, one in a line."""
    if not jobs:
        return "no jobs"
    rows = [("id", "type", "queue", "status", "attempt", "run_at", "payload", "reason")]
    rows += [
        (
            job.id[-12:],
            job.type,
            job.queue,
            str(job.status),
            f"{job.attempt}/{job.max_attempts}",
            f"{job.run_at:%Y-%m-%d %H:%M:%S}",
            _short(job.payload),
            job.reason or "",
        )
        for job in jobs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([line.rstrip() for line in lines] + (["… and older ones"] if more else []))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= PAYLOAD_CHARACTERS else f"{text[: PAYLOAD_CHARACTERS - 1]}…"
