"""Cuts the power of a busy SQLite store thousands of times, and looks for what was promised: all there.

    python -m tests.crash.power [--images 20000] [--seed N] [--processes 2]

See docs/power-cuts.md. Ends with 1 when anything was broken, or when too little was tried.
"""

import os
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from random import Random, SystemRandom
from typing import get_args
from unittest.mock import patch

import apsw
import trio

from tests.crash.busy import TYPES, live
from tests.crash.cuts import DATABASE, SORTS, TORN, Moment, boundaries, drawn, marks, survivors
from tests.crash.disk import Action, Disk, Files, recording
from tests.crash.promises import Enqueued, Fault, Kind, Known, Promised, check, read_jobs
from trioqueue.clock import WallClock
from trioqueue.jobs.job import NodeId
from trioqueue.jobs.outcome import Completed
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Settlement
from trioqueue.store.sqlite import connection as sqlite_connection

CHECKPOINT_PAGES = 40
"""Instead of thousands, so that checkpoints come often and images are small."""
LOG_BYTES = 64 * 1024
"""The log is cut back to this after a checkpoint, so that truncations happen."""

SESSIONS = 3
STEPS = 8
IMAGES_OF_ONE_RUN = 4000
"""After so many images other lives are recorded."""
STARTED = 10
"""The real store is started on every so manyth image."""
FEWEST_DRAWN = 300
"""Images of a life that are not at boundaries, however few were asked for."""
SHOWN = 20
KEPT_IMAGES = 5


@dataclass(slots=True)
class Course:
    """What was tried, and what was found."""

    lives: int = 0
    images: int = 0
    distinct: int = 0
    boundaries: int = 0
    starts: int = 0
    actions: int = 0
    promises: int = 0
    sorts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[Fault, str]] = field(default_factory=list)
    """Each with the place in which it was found."""

    broken: list[tuple[str, Files]] = field(default_factory=list)
    """The first broken images, for people to look at."""

    def add(self, other: "Course") -> None:
        self.lives += other.lives
        self.images += other.images
        self.distinct += other.distinct
        self.boundaries += other.boundaries
        self.starts += other.starts
        self.actions += other.actions
        self.promises += other.promises
        self.sorts += other.sorts
        self.faults += other.faults
        self.broken += other.broken[: KEPT_IMAGES - len(self.broken)]

    @property
    def untried(self) -> list[str]:
        return [sort for sort in SORTS if not self.sorts[sort]]

    @property
    def is_clean(self) -> bool:
        return not self.faults and not self.untried


def record(directory: Path, seed: int, *, sessions: int = SESSIONS, steps: int = STEPS) -> list[object]:
    """The log of one life: what was done to the files, and between that what callers were promised.

    When there are files in `directory`, the life goes on from there, and what is in them is promised.
    """
    log: list[object] = []
    with (
        patch.object(sqlite_connection, "CHECKPOINT_PAGES", CHECKPOINT_PAGES),
        patch.object(sqlite_connection, "WAL_LIMIT_BYTES", LOG_BYTES),
        recording(directory, log),
    ):
        log += promises_of(directory / DATABASE)
        trio.run(partial(live, directory / DATABASE, log, seed, sessions=sessions, steps=steps))
    check_recording(log, directory)
    return log


def check_recording(log: Sequence[object], directory: Path) -> None:
    """Raise when anything was done to the files that is not in the log."""
    disk = Disk()
    for entry in log:
        disk.take(entry)
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert disk.image(disk.in_flight) == files


def promises_of(path: Path) -> list[object]:
    """What an earlier life has left, as if it had just been enqueued job by job."""
    if not path.exists():
        return []
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as copy:
        shutil.copytree(path.parent, copy, dirs_exist_ok=True)
        with closing(apsw.Connection(f"{copy}/{DATABASE}", flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            return [Enqueued((state,)) for state in read_jobs(connection).values()]


def cut(log: Sequence[object], number: int, directory: Path, random: Random) -> Course:
    """Cut the power at every boundary and at so many other places; each image is looked at in `directory`."""
    systematic = list(boundaries(log))
    known = Known(log)
    course = Course(
        lives=1,
        boundaries=len(systematic),
        actions=sum(isinstance(entry, Action) for entry in log),
        promises=sum(len(versions) for versions in known.versions.values()),
    )
    moment = Moment()
    taken = 0
    seen = set()
    plan = sorted([*systematic, *drawn(log, number, random)], key=attrgetter("position"))
    for planned in plan:
        for entry in log[taken : planned.position]:
            moment.take(entry)
        taken = planned.position
        in_flight = moment.disk.in_flight
        way, kept = survivors(in_flight, planned.way, random)
        files = moment.disk.image(kept)
        faults = look(files, known, moment.promised, directory)
        if course.images % STARTED == 0 or not files.get(DATABASE):
            faults += start(files, directory)
            course.starts += 1
        course.images += 1
        seen.add(hash(frozenset(files.items())))
        course.sorts.update({way, moment.sort, *marks(moment, kept)})
        place = f"{moment.sort}, {way}, at {planned.position} of {len(log)}"
        course.faults += [(fault, place) for fault in faults]
        if faults and len(course.broken) < KEPT_IMAGES:
            course.broken.append((place, files))
    course.distinct = len(seen)
    return course


def look(files: Files, known: Known, promised: Promised, directory: Path) -> list[Fault]:
    """What is wrong with an image when SQLite opens it, and nothing of ours."""
    path = lay_out(files, directory)
    if not path.exists():
        lost = len(promised.states)
        return [Fault("lost", f"there is no database, and {lost} jobs were acknowledged")] if lost else []
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        return list(check(connection, known, promised))


def start(files: Files, directory: Path) -> list[Fault]:
    """What is wrong with an image when the store opens it, claims and settles."""
    path = lay_out(files, directory)
    try:
        trio.run(serve, path)
    except Exception as error:  # whatever it is: a machine that had a power cut would not come up
        return [Fault("not started", f"{type(error).__name__}: {error}")]
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        [(problem,)] = connection.execute("PRAGMA integrity_check(1)")
    return [] if problem == "ok" else [Fault("damaged", f"after a start: {problem}")]


async def serve(path: Path) -> None:
    node = NodeId("node-after")
    url = f"sqlite:///{path}"
    async with open_store(url, clock=WallClock(), random=Random(0), node=node) as store:
        claims = await store.claim(node=node, types=frozenset(TYPES), limit=5, lease_seconds=30)
        settled = await store.settle([Settlement(claim, Completed()) for claim in claims])
        assert all(job is not None for job in settled)
        assert [await store.get(job.id) for job in settled if job] == settled


def lay_out(files: Files, directory: Path) -> Path:
    """Write the files into the directory, alone."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory / DATABASE


def run(seed: int, images: int, *, steps: int = STEPS) -> Course:
    """A life, and another that begins after a power cut in the first, and about so many images of both."""
    random = Random(seed)
    with tempfile.TemporaryDirectory(prefix="trioqueue-power-", dir=fast_directory()) as name:
        directory = Path(name)
        (directory / "first").mkdir()
        first = record(directory / "first", seed, steps=steps)
        lay_out(draw_image(first, random), directory / "second")
        second = record(directory / "second", seed + 1, sessions=SESSIONS - 1, steps=steps)
        systematic = sum(1 for log in (first, second) for _ in boundaries(log))
        number = -(-max(images - systematic, FEWEST_DRAWN) // 2)
        course = Course()
        for log in (first, second):
            course.add(cut(log, number, directory / "image", random))
    return course


def draw_image(log: Sequence[object], random: Random) -> Files:
    """What a power cut in the second half of a life has left."""
    moment = Moment()
    for entry in log[: random.randrange(len(log) // 2, len(log))]:
        moment.take(entry)
    _, kept = survivors(moment.disk.in_flight, TORN, random)
    return moment.disk.image(kept)


def fast_directory() -> str | None:
    """In memory, where there is such a thing: nothing here asks for a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def report(course: Course) -> Iterator[str]:
    """The table, a line at a time."""
    facts: list[tuple[str, object]] = [
        ("SQLite", apsw.sqlite_lib_version()),
        ("lives recorded", course.lives),
        ("writes, syncs and the like", course.actions),
        ("promises", course.promises),
        ("images", course.images),
        ("of these different ones", course.distinct),
        ("of these at boundaries", course.boundaries),
        ("stores started", course.starts),
        *((sort, course.sorts[sort]) for sort in SORTS),
    ]
    found = Counter(fault.kind for fault, _ in course.faults)
    facts += [(kind, found[kind]) for kind in get_args(Kind)]
    for name, value in facts:
        yield f"{name:32}{value}"
    for fault, place in course.faults[:SHOWN]:
        yield f"{fault.kind}: {fault.what} ({place})"
    for sort in course.untried:
        yield f"UNTRIED: {sort}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.power", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    begun = time.monotonic()
    runs = max(1, round(chosen.images / IMAGES_OF_ONE_RUN))
    course = Course()
    with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as processes:
        seeds = range(chosen.seed, chosen.seed + runs)
        for one in processes.map(run, seeds, [-(-chosen.images // runs)] * runs):
            course.add(one)
            print(f"{course.images} images, {len(course.faults)} faults", flush=True)
    seconds = time.monotonic() - begun
    for line in report(course):
        print(line)
    print(f"\nseed {chosen.seed}, {seconds:.0f} s, {course.images / seconds:.0f} images/s")
    if course.broken:
        keep(course.broken, Path(tempfile.mkdtemp(prefix="trioqueue-power-")))
    print("all is well" if course.is_clean else "BROKEN")
    return 0 if course.is_clean else 1


def keep(broken: Sequence[tuple[str, Files]], directory: Path) -> None:
    """Write down images for whoever wants to look at them."""
    for number, (place, files) in enumerate(broken, 1):
        lay_out(files, directory / str(number))
        print(f"{directory / str(number)}: {place}")


if __name__ == "__main__":
    sys.exit(main())
