"""Opens connections to the file, and says in plain words why SQLite cannot read or write it."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from itertools import count
from pathlib import Path

import apsw

from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.store.migrations import Migrated, Migration, read_migrations
from trioqueue.store.sqlite.migrate import migrate

WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""The write-ahead log is cut back to this after a checkpoint."""

CHECKPOINT_PAGES = 4000
"""Copied into the database after so many pages (16 MB): busy pages are copied once and not four times."""

CACHE_KIBIBYTES = 32 * 1024

CHECKED_BYTES = 512 * 1024 * 1024
"""Larger files are not checked when they are opened: reading all of one would take many seconds."""

REASONS: dict[type[apsw.Error], str] = {
    apsw.FullError: "the disk is full",
    apsw.BusyError: "another process keeps the database locked",
    apsw.LockedError: "another process keeps the database locked",
    apsw.ProtocolError: "another process keeps the database locked",
    apsw.IOError: "the disk cannot be read or written",
    apsw.CantOpenError: "the file cannot be opened",
    apsw.ReadOnlyError: "the file is read-only",
    apsw.PermissionsError: "the file may not be accessed",
    apsw.CorruptError: "the file is damaged; restore a backup",
    apsw.NotADBError: "the file is not an SQLite database",
    apsw.NoMemError: "there is no memory left",
}
"""Errors of the file, not of a query: whoever asks next would get the same."""

STORE_ERRORS = tuple(REASONS)


def unavailable(error: apsw.Error) -> StoreUnavailable:
    """What callers are told of one of `STORE_ERRORS`."""
    return StoreUnavailable(f"{REASONS[type(error)]} ({error})")


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Raise `StoreUnavailable` for errors of the file."""
    try:
        yield
    except STORE_ERRORS as error:
        raise unavailable(error) from error


def prepare(path: Path, *, flushed: bool = True) -> Migrated:
    """Create the file when it is not there, check it, and bring it to the newest version. Blocks.

    Raises `ConfigError` when the path cannot hold our database, `StoreUnavailable` when the file
    is damaged or cannot be used now.
    """
    if not path.parent.is_dir():
        raise ConfigError([f"the directory {path.parent} does not exist; create it, or choose another path"])
    with in_plain_words(), _for_the_first_time(path):
        try:
            _create(path)
        except OSError as error:
            raise StoreUnavailable(f"the file cannot be created ({error})") from error
        with closing(connect_writer(path, flushed=flushed)) as connection:
            _check(connection, path)
            return migrate(connection, _migrations())


def look_ahead(path: Path) -> Migrated:
    """What `prepare` would apply; neither creates nor changes a file. Blocks; raises as `prepare` does."""
    if not path.exists():
        with closing(apsw.Connection(":memory:")) as nothing:
            return migrate(nothing, _migrations(), print_only=True)
    with in_plain_words(), _for_the_first_time(path), closing(connect_reader(path)) as connection:
        return migrate(connection, _migrations(), print_only=True)


@contextmanager
def _for_the_first_time(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.NotADBError as error:
        raise ConfigError([f"{path} is not an SQLite database; choose another path"]) from error


def _migrations() -> Sequence[Migration]:
    return read_migrations(files(__package__) / "sql" / "migrations")


def connect_writer(path: Path, *, flushed: bool = True) -> apsw.Connection:
    """The process's one connection that writes: a commit is on the disk when it returns, if `flushed`.

    If not, the last commits may be lost with the machine's power; the file is whole in any case.
    """
    connection = _connect(path, _wait_for_writer)
    _write_ahead(connection)
    connection.pragma("synchronous", "full" if flushed else "normal")
    connection.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
    connection.pragma("journal_size_limit", WAL_LIMIT_BYTES)
    return connection


def _write_ahead(connection: apsw.Connection) -> None:
    """Switch the file to WAL mode, in which it then stays.

    Of two connections that switch a new file at the same time SQLite refuses one at once, without
    asking its busy handler, because neither could go on while both wait. Here it waits its turn.
    """
    for waited in count():
        try:
            connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if not _wait_for_writer(waited):
                raise
        else:
            return


def connect_reader(path: Path) -> apsw.Connection:
    """A connection that only reads. In WAL mode no writer makes it wait."""
    connection = _connect(path, _wait_for_reader)
    connection.pragma("query_only", True)
    return connection


def _connect(path: Path, wait: Callable[[int], bool]) -> apsw.Connection:
    connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_handler(wait)
    connection.pragma("cache_size", -CACHE_KIBIBYTES)
    # Plans must not depend on the values: SQLite would plan queries on partial indexes anew at
    # every call, which cost a claim more than all its other work.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, True)
    return connection


def close(connection: apsw.Connection | None) -> None:
    """Close it, however damaged it is."""
    if connection is not None:
        with suppress(apsw.Error):
            connection.close()


def _create(path: Path) -> None:
    """Create the file for its owner only; SQLite gives the files beside it the same mode.

    A file that exists is not opened here: when a process closes any descriptor of a file, POSIX
    drops the locks that SQLite holds on it through others.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _check(connection: apsw.Connection, path: Path) -> None:
    if path.stat().st_size > CHECKED_BYTES:
        return
    problem = next(connection.execute("PRAGMA quick_check(1)"))[0]
    if problem != "ok":
        raise StoreUnavailable(f"{path} is damaged; restore a backup ({problem})")


def _patience(waits: int) -> Callable[[int], bool]:
    """A busy handler that looks again every 0.5 to 2 ms, `waits` times.

    SQLite's own waits up to 100 ms between two looks, so that of several busy processes one may
    miss its turn for half a second.
    """

    def wait(waited: int) -> bool:
        time.sleep(0.0005 * (1 + waited % 4))  # noqa: TID251 (SQLite calls this in the writer's thread)
        return waited < waits

    return wait


_wait_for_writer = _patience(800)
"""About one second."""

_wait_for_reader = _patience(16)
"""About 20 ms, on the loop: only while another process recovers the log of one that died."""
