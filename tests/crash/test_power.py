"""No power cut loses what was promised; see docs/power-cuts.md for longer runs. And what would be found."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from tempfile import TemporaryDirectory

import apsw
import pytest
import trio

from tests.crash.cuts import DATABASE, KEPT, REORDERED, SHORT, SORTS, TORN, survivors
from tests.crash.disk import (
    Change,
    DirectorySynced,
    Disk,
    Linked,
    Synced,
    Truncated,
    Unlinked,
    Wrote,
    recording,
)
from tests.crash.power import Course, cut, fast_directory, lay_out, look, record, report, run
from tests.crash.promises import Enqueued, Known, Promised
from trioqueue.store.sqlite import connection as connections
from trioqueue.store.sqlite import writer as writers
from trioqueue.store.sqlite.transaction import Transaction


def test_a_power_cut_loses_no_promise() -> None:
    seed = SystemRandom().randrange(10**6)
    course = run(seed, images=1000, steps=4)
    assert course.is_clean, "\n".join([f"seed {seed}", *report(course)])
    assert course.images >= 1000


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(dir=fast_directory()) as name:
        yield Path(name)


# What would be found: faults planted into the store, into the disk and into the database.


def kinds(course: Course) -> set[str]:
    return {fault.kind for fault, _ in course.faults}


def life_and_cuts(directory: Path, number: int = 60) -> Course:
    (directory / "life").mkdir()
    log = record(directory / "life", 1, sessions=1, steps=4)
    return cut(log, number, directory / "image", Random(1))


@pytest.mark.parametrize("level", ["normal", "off"])
def test_a_store_that_does_not_flush_its_commits_is_found(
    level: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = connections.connect_writer

    def connect_carelessly(path: Path, *, flushed: bool = True) -> apsw.Connection:
        connection = connect(path, flushed=flushed)
        connection.pragma("synchronous", level)
        return connection

    monkeypatch.setattr(connections, "connect_writer", connect_carelessly)
    monkeypatch.setattr(writers, "connect_writer", connect_carelessly)
    course = life_and_cuts(directory)
    assert any("acknowledged" in fault.what for fault, _ in course.faults)
    if level == "normal":  # loses the latest commits, but each of them whole
        assert kinds(course) == {"lost"}


def test_an_answer_before_the_commit_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer rehearses a batch, answers, and commits it afterwards."""

    def rehearse(writer: writers.Writer, batch: Sequence[writers.Submitted]) -> list[writers.Answer]:
        if writer._connection is None:
            writer._connection = connections.connect_writer(writer._path)
        writer._connection.execute("BEGIN IMMEDIATE")
        try:
            transaction = Transaction(writer._connection, writer._queries, writer._clock.now())
            return [writers._run(transaction, submitted.operation) for submitted in batch]
        finally:
            writer._connection.execute("ROLLBACK")

    async def commit_next(writer: writers.Writer) -> None:
        batch = [writer._queue.popleft() for _ in range(len(writer._queue))]
        answers = await writer._run_sync(partial(rehearse, writer, batch))
        for submitted, answer in zip(batch, answers, strict=True):
            trio.lowlevel.reschedule(submitted.task, answer)
        await trio.lowlevel.checkpoint()
        await writer._run_sync(partial(writer._commit, [submitted.operation for submitted in batch]))

    monkeypatch.setattr(writers.Writer, "_commit_next", commit_next)
    assert any("acknowledged" in fault.what for fault, _ in life_and_cuts(directory).faults)


@pytest.fixture(scope="module")
def life() -> list[object]:
    """A sound one, for faults that come later."""
    with TemporaryDirectory(dir=fast_directory()) as name:
        return record(Path(name), 1, sessions=1, steps=4)


def test_a_database_whose_directory_was_not_synced_is_found(life: list[object], directory: Path) -> None:
    log = [entry for entry in life if not isinstance(entry, DirectorySynced)]
    course = cut(log, 60, directory / "image", Random(1))
    assert any("there is no database" in fault.what for fault, _ in course.faults)


def test_a_checkpoint_that_was_not_synced_is_found(life: list[object], directory: Path) -> None:
    [database] = [entry.inode for entry in life if isinstance(entry, Linked) and entry.name == DATABASE]
    log = [entry for entry in life if entry != Synced(database)]
    assert kinds(cut(log, 60, directory / "image", Random(1))) >= {"damaged"}


def test_a_run_that_has_not_met_every_sort_is_not_clean(life: list[object], directory: Path) -> None:
    course = cut(life, 10, directory / "image", Random(1))
    assert not course.faults
    assert course.untried
    assert not course.is_clean
    course.sorts.update(SORTS)
    assert course.is_clean


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("DELETE FROM jobs WHERE status = 'completed'", "lost"),
        ("UPDATE jobs SET version = version - 1", "lost"),
        ("UPDATE jobs SET result = x'00' WHERE status = 'completed'", "different"),
        ("UPDATE jobs SET status = 'pending' WHERE status = 'completed'", "different"),
        ("INSERT INTO counters VALUES ('pending', 'q', 't', 1)", "miscounted"),
        ("UPDATE jobs SET attempt = attempt + 1", "miscounted"),
        ("DELETE FROM attempts WHERE outcome = 'completed'", "torn"),
        ("UPDATE attempts SET epoch = epoch + 1000 WHERE outcome = 'completed'", "miscounted"),
        ("DELETE FROM jobs WHERE seq = (SELECT min(seq) FROM attempts)", "torn"),
        ("UPDATE jobs SET id = upper(id)", "unexplained"),
        ("DELETE FROM job_tags", "torn"),
        ("DROP TABLE jobs", "lost"),
        ("DROP TABLE counters", "damaged"),
    ],
)
def test_damage_is_found(damage: str, kind: str, life: list[object], directory: Path) -> None:
    disk, promised = Disk(), Promised()
    for entry in life:
        disk.take(entry)
        promised.take(entry)
    files = disk.image(disk.in_flight)
    assert look(files, Known(life), promised, directory / "image") == []
    path = lay_out(files, directory / "damaged")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(damage)
    faults = look({DATABASE: path.read_bytes()}, Known(life), promised, directory / "image")
    assert kind in {fault.kind for fault in faults}


def test_half_of_one_call_is_found(life: list[object], directory: Path) -> None:
    known = Known(life)
    group = next(group for group in known.groups if len(group) > 1)
    position = next(
        position
        for position, entry in enumerate(life)
        if isinstance(entry, Enqueued) and {state.id for state in entry.states} == group
    )
    disk, promised = Disk(), Promised()
    for entry in life[:position]:  # all is written, and nobody has been answered
        disk.take(entry)
        promised.take(entry)
    path = lay_out(disk.image(disk.in_flight), directory / "damaged")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("DELETE FROM jobs WHERE id = ?", [min(group)])
    faults = look({DATABASE: path.read_bytes()}, known, promised, directory / "image")
    assert "torn" in {fault.kind for fault in faults}


# The disk.


def disk_after(*actions: object) -> Disk:
    disk = Disk()
    for action in actions:
        disk.take(action)
    return disk


def test_what_was_synced_is_there_and_what_was_not_is_in_flight() -> None:
    entry, first, second = Linked("a", 1), Wrote(1, 0, b"first"), Wrote(1, 5, b"second")
    disk = disk_after(entry, first, Synced(1), DirectorySynced(), second)
    assert disk.image([]) == {"a": b"first"}
    assert disk.image([second]) == {"a": b"firstsecond"}
    assert disk.in_flight == [second]


def test_a_synced_file_is_lost_with_its_entry() -> None:
    disk = disk_after(Linked("a", 1), Wrote(1, 0, b"first"), Synced(1))
    assert disk.image([]) == {}
    assert disk.image(disk.in_flight) == {"a": b"first"}


def test_a_removed_file_may_come_back_and_a_new_one_of_its_name_is_another() -> None:
    old = (Linked("a", 1), Wrote(1, 0, b"old"), Synced(1), DirectorySynced())
    removed, created, new = Unlinked("a", 1), Linked("a", 2), Wrote(2, 0, b"new")
    disk = disk_after(*old, removed, created, new, Synced(2))
    assert disk.image([]) == {"a": b"old"}
    assert disk.image([removed]) == {}
    assert disk.image([created]) == {"a": b"new"}


def test_holes_are_zeros_and_truncations_may_be_lost() -> None:
    early, late, short = Wrote(1, 0, b"early"), Wrote(1, 8, b"late"), Truncated(1, 2)
    disk = disk_after(Linked("a", 1), DirectorySynced(), early, late, short)
    assert disk.image([late]) == {"a": bytes(8) + b"late"}
    assert disk.image([early, short]) == {"a": b"ea"}
    assert disk.image([early, late]) == {"a": b"early\0\0\0late"}


@pytest.mark.parametrize("seed", range(20))
def test_changes_survive_as_their_word_says(seed: int) -> None:
    in_flight: list[Change] = [
        Wrote(1, 100 + 2000 * number, bytes([number + 1]) * 2000) for number in range(5)
    ]
    random = Random(seed)
    assert survivors(in_flight, KEPT, random) == (KEPT, in_flight)
    way, kept = survivors(in_flight, SHORT, random)
    assert way == SHORT
    assert kept == in_flight[: len(kept)]
    assert 0 < len(kept) < 5
    way, kept = survivors(in_flight, REORDERED, random)
    assert way == REORDERED
    assert kept != in_flight[: len(kept)]
    assert all(change in in_flight for change in kept)
    way, kept = survivors(in_flight, TORN, random)
    assert way == TORN
    torn = [change for change in kept if change not in in_flight]
    assert torn
    assert all(isinstance(part, Wrote) and len(part.data) <= 512 for part in torn)


def test_the_recorder_sees_what_sqlite_does_and_leaves_when_it_is_done(tmp_path: Path) -> None:
    log: list[object] = []
    with recording(tmp_path, log), closing(apsw.Connection(str(tmp_path / DATABASE))) as connection:
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        with closing(apsw.Connection(str(tmp_path / DATABASE))) as other:
            connection.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
            assert other.execute("SELECT x FROM t").fetchall() == [(1,)]
        recorded = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".db-shm"}
        disk = disk_after(*log)
        assert disk.image(disk.in_flight) == recorded
        assert f"{DATABASE}-wal" in recorded
        assert disk.in_flight == []
    before = len(log)
    with closing(apsw.Connection(str(tmp_path / DATABASE))) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    assert len(log) == before
