"""Opens the store that a URL names. Besides the tests, the only place that knows the concrete stores."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import trio

from trioqueue.clock import Clock, RunSync, WallClock, is_virtual, run_in_thread, run_inline
from trioqueue.config import without_secrets
from trioqueue.errors import ConfigError
from trioqueue.jobs.job import NodeId
from trioqueue.store.memory.store import MemoryStore
from trioqueue.store.migrations import Migrated
from trioqueue.store.options import PostgresOptions
from trioqueue.store.protocol import Store
from trioqueue.store.sqlite.connection import look_ahead, prepare
from trioqueue.store.sqlite.store import open_sqlite

MEMORY = "memory:"
SQLITE = "sqlite:///"
POSTGRES = re.compile(r"postgres(ql)?://")

USUAL = PostgresOptions()


def check_url(url: str) -> str | None:
    """What is wrong with a store's URL, for people; None when it can be opened. Touches no file."""
    if url == MEMORY or POSTGRES.match(url) or (url.startswith(SQLITE) and _is_path(url)):
        return None
    return (
        f"the store {without_secrets(url)!r} is not one that this trioqueue can open; "
        "write sqlite:///jobs.db (in the working directory), sqlite:////var/lib/jobs.db (absolute), "
        "postgresql://user@host/database or memory: (for tests, nothing is kept)"
    )


@asynccontextmanager
async def open_store(
    url: str,
    *,
    clock: Clock,
    random: Random,
    node: NodeId,
    run_sync: RunSync[Any] | None = None,
    postgres: PostgresOptions = USUAL,
) -> AsyncIterator[Store]:
    """The store at `url`, for `node`, until the block ends: `memory:`, `sqlite:///…` or `postgresql://…`.

    `clock` tells the store's time (but to a PostgreSQL server only virtual time: else it has its
    own), `random` the jitter of retries. `run_sync` calls what blocks: by default in a thread, and
    inline under virtual time. Under virtual time a file's commits are not flushed: the last of them
    may be lost with the machine's power, though not with the process. When the block ends, whatever
    had been handed to the store is committed first. Raises `ConfigError` for a URL or a database that
    can never work, `StoreUnavailable` for one that does not work now.
    """
    _check(url)
    if url == MEMORY:
        yield MemoryStore(clock, random)
    elif POSTGRES.match(url):
        given = None if isinstance(clock, WallClock) else clock
        opening = _with_driver("open").open_postgres(
            url, options=postgres, clock=given, random=random, node=node
        )
        async with opening as store:
            yield store
    else:
        async with open_sqlite(
            _path(url),
            url=url,
            clock=clock,
            random=random,
            node=node,
            run_sync=run_sync or (run_inline if is_virtual() else run_in_thread),
            flushed=not is_virtual(),
        ) as store:
            yield store


async def migrate_store(url: str, *, postgres: PostgresOptions = USUAL, print_only: bool = False) -> Migrated:
    """Bring the database at `url` to the newest version; with `print_only`, only say what would be done.

    Raises `ConfigError` and `StoreUnavailable` as `open_store` does.
    """
    _check(url)
    if url == MEMORY:
        return Migrated(before=0, after=0, sql="")
    if POSTGRES.match(url):
        migrated: Migrated = await _with_driver("migrate").migrate_postgres(
            url, postgres, print_only=print_only
        )
        return migrated
    return await trio.to_thread.run_sync(look_ahead if print_only else prepare, _path(url))


def _check(url: str) -> None:
    problem = check_url(url)
    if problem is not None:
        raise ConfigError([problem])


def _with_driver(module: str) -> ModuleType:
    """A module of the PostgreSQL store. Its driver is installed only where somebody asked for it."""
    try:
        return import_module(f"trioqueue.store.postgres.{module}")
    except ImportError as error:
        if (error.name or "psycopg").startswith("trioqueue"):
            raise
        problem = f"a PostgreSQL store needs psycopg ({error}); run: pip install 'trioqueue[postgres]'"
        raise ConfigError([problem]) from error


def _path(url: str) -> Path:
    return Path(url.removeprefix(SQLITE)).absolute()


def _is_path(url: str) -> bool:
    text = url.removeprefix(SQLITE)
    return (
        bool(text.strip("/. ")) and not text.startswith(":") and not text.endswith("/") and "\x00" not in text
    )
