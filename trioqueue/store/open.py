"""Opens the store that a URL names. Besides the tests, the only place that knows the concrete stores."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from trioqueue.clock import Clock, RunSync, is_virtual, run_in_thread, run_inline
from trioqueue.errors import ConfigError
from trioqueue.jobs.job import NodeId
from trioqueue.store.memory import MemoryStore
from trioqueue.store.protocol import Store
from trioqueue.store.sqlite.store import open_sqlite

MEMORY = "memory:"
SQLITE = "sqlite:///"


def check_url(url: str) -> str | None:
    """What is wrong with a store's URL, for people; None when it can be opened. Touches no file."""
    if url == MEMORY or (url.startswith(SQLITE) and _is_path(url.removeprefix(SQLITE))):
        return None
    return (
        f"the store {url!r} is not one that this trioqueue can open; "
        "write sqlite:///jobs.db (in the working directory), sqlite:////var/lib/jobs.db (absolute) "
        "or memory: (for tests, nothing is kept)"
    )


@asynccontextmanager
async def open_store(
    url: str, *, clock: Clock, random: Random, node: NodeId, run_sync: RunSync[Any] | None = None
) -> AsyncIterator[Store]:
    """The store at `url`, for `node`, until the block ends: `memory:` or `sqlite:///path`.

    `clock` tells the store's time, `random` the jitter of retries. `run_sync` calls what blocks:
    by default in a thread, and inline under virtual time. When the block ends, whatever had been
    handed to the store is committed first. Raises `ConfigError` for a URL or a file that can
    never work, `StoreUnavailable` for one that does not work now.
    """
    problem = check_url(url)
    if problem is not None:
        raise ConfigError([problem])
    if url == MEMORY:
        yield MemoryStore(clock, random)
        return
    async with open_sqlite(
        _path(url),
        url=url,
        clock=clock,
        random=random,
        node=node,
        run_sync=run_sync or (run_inline if is_virtual() else run_in_thread),
    ) as store:
        yield store


def _path(url: str) -> Path:
    return Path(url.removeprefix(SQLITE)).absolute()


def _is_path(text: str) -> bool:
    return (
        bool(text.strip("/. ")) and not text.startswith(":") and not text.endswith("/") and "\x00" not in text
    )
