"""Where the power is cut, and which of the changes in flight survive it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.crash.busy import CLOSING, CREATION, OPENING, WORK, Stage
from tests.crash.disk import (
    Change,
    DirectorySynced,
    Disk,
    Linked,
    Synced,
    Truncated,
    Unlinked,
    Wrote,
    sectors,
)
from tests.crash.promises import Promised

DATABASE = "jobs.db"

NOTHING, DROPPED, KEPT, SHORT, REORDERED, TORN = WAYS = (
    "nothing in flight",
    "all dropped",
    "all kept",
    "cut short",
    "reordered",
    "torn",
)
"""What became of the changes in flight. Every image is of one of these sorts."""

BEFORE, CHECKPOINT, AFTER = "at work, before a checkpoint", "in a checkpoint", "at work, after a checkpoint"
MOMENTS = (CREATION, BEFORE, CHECKPOINT, AFTER, CLOSING, OPENING)
"""When the power was cut. Every image is of one of these sorts, too."""

NO_DATABASE, NO_LOG, REMAINS, LONGER, SECOND = MARKS = (
    "the database's creation lost",
    "the log's creation lost",
    "a removal lost",
    "a truncation lost",
    "after an earlier power cut",
)
"""What else may be true of an image."""

SORTS = (*WAYS, *MOMENTS, *MARKS)
"""A run that has not met every one of them has proved less than it says."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes before `log[position]`; `way` is what becomes of the changes in flight."""

    position: int
    way: str


def boundaries(log: Sequence[object]) -> Iterator[Cut]:
    """The extremes at every sync. And the end.

    Just before it is done; and just after, if it is a directory's or more is in flight: else the
    next sync has the same image, with more promises.
    """
    first = beginning(log)
    disk = Disk()
    for position, entry in enumerate(log):
        was_in_flight = bool(disk.in_flight)
        disk.take(entry)
        if position > first and was_in_flight and isinstance(entry, Synced | DirectorySynced):
            yield Cut(position, DROPPED)
            yield Cut(position, KEPT)
            if disk.in_flight or isinstance(entry, DirectorySynced):
                yield Cut(position + 1, DROPPED)
    yield Cut(len(log), DROPPED)


def beginning(log: Sequence[object]) -> int:
    """What stands before is not recorded: it is what was there."""
    return next(position for position, entry in enumerate(log) if isinstance(entry, Stage))


def drawn(log: Sequence[object], number: int, random: Random) -> list[Cut]:
    """So many cuts while something is in flight; half of them in a random stage, as work takes longest."""
    stages: dict[str, list[int]] = {}
    disk, stage = Disk(), ""
    for position, entry in enumerate(log):
        if stage and disk.in_flight:
            stages.setdefault(stage, []).append(position)
        disk.take(entry)
        stage = entry.name if isinstance(entry, Stage) else stage
    names = [WORK] * len(stages) + list(stages)
    return [
        Cut(
            random.choice(stages[random.choice(names)]),
            random.choice([SHORT, REORDERED, REORDERED, TORN, TORN]),
        )
        for _ in range(number)
    ]


@dataclass(slots=True)
class Moment:
    """Everything that matters at one position of a log."""

    disk: Disk = field(default_factory=Disk)
    promised: Promised = field(default_factory=Promised)
    stage: str = CREATION
    database: int | None = None
    checkpoints: int = 0
    is_second: bool = False
    """The recorded life began with what an earlier power cut had left."""

    def take(self, entry: object) -> None:
        """Go on by one entry."""
        self.disk.take(entry)
        self.promised.take(entry)
        match entry:
            case Stage(name):
                self.is_second |= name == OPENING and self.stage == CREATION
                self.stage = name
            case Linked(name, inode) if name == DATABASE:
                self.database = inode
            case Synced(inode) if inode == self.database and self.stage != CREATION:
                self.checkpoints += 1

    @property
    def sort(self) -> str:
        if self.stage != WORK:
            return self.stage
        if any(change.inode == self.database for change in self.disk.in_flight):
            return CHECKPOINT
        return AFTER if self.checkpoints else BEFORE


def survivors(in_flight: Sequence[Change], way: str, random: Random) -> tuple[str, list[Change]]:
    """What survives when the power is cut in this way, or in the way that comes nearest, and that way."""
    torn = [number for number, change in enumerate(in_flight) if _can_tear(change)]
    match way:
        case _ if not in_flight:
            return NOTHING, []
        case _ if way == TORN and torn:
            return TORN, _torn(in_flight, torn, random)
        case _ if way == REORDERED and len(in_flight) > 1:
            return REORDERED, [in_flight[number] for number in sorted(_subset(len(in_flight), random))]
        case _ if way in (SHORT, REORDERED, TORN) and len(in_flight) > 1:
            return SHORT, list(in_flight[: random.randrange(1, len(in_flight))])
        case _ if way == KEPT or (way != DROPPED and random.random() < 0.5):
            return KEPT, list(in_flight)
        case _:
            return DROPPED, []


def _subset(number: int, random: Random) -> set[int]:
    """Some of so many, at least one of which comes after one that is not among them."""
    missing, there = sorted(random.sample(range(number), 2))
    share = random.choice([0.1, 0.5, 0.9])
    drawn = {index for index in range(number) if random.random() < share}
    return (drawn | {there}) - {missing}


def _torn(in_flight: Sequence[Change], candidates: Sequence[int], random: Random) -> list[Change]:
    """A write that was cut in the middle, after all that came before or among whatever else survives."""
    victim = random.choice(candidates)
    others = (
        set(range(victim)) if random.random() < 0.3 or len(in_flight) < 2 else _subset(len(in_flight), random)
    )
    kept: list[Change] = []
    for number in sorted(others | {victim}):
        change = in_flight[number]
        if isinstance(change, Wrote) and (number == victim or (_can_tear(change) and random.random() < 0.2)):
            kept += _some(sectors(change), random)
        else:
            kept.append(change)
    return kept


def _some(parts: Sequence[Wrote], random: Random) -> Sequence[Wrote]:
    """Some of the sectors, but neither none nor all: the first ones, or any."""
    number = random.randrange(1, len(parts))
    chosen = range(number) if random.random() < 0.5 else sorted(random.sample(range(len(parts)), number))
    return [parts[index] for index in chosen]


def _can_tear(change: Change) -> bool:
    return isinstance(change, Wrote) and len(sectors(change)) > 1


def marks(moment: Moment, survivors: Sequence[Change]) -> Iterator[str]:
    """What else is true of the image."""
    if moment.is_second:
        yield SECOND
    kept = {id(change) for change in survivors}
    for change in moment.disk.in_flight:
        match change:
            case _ if id(change) in kept:
                pass
            case Linked(name) if name == DATABASE:
                yield NO_DATABASE
            case Linked(name) if name.endswith("-wal"):
                yield NO_LOG
            case Unlinked():
                yield REMAINS
            case Truncated():
                yield LONGER
