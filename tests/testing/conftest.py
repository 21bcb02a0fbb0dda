"""A project of a user's own, which pytest runs in the middle of a test."""

from collections.abc import Callable

import pytest

import trioqueue.testing.queue
import trioqueue.testing.server  # noqa: F401  # loaded now, so that the inner pytest need not load it each time

JOBS = """
import trio

from trioqueue import Context, Handlers

handlers = Handlers()


@handlers.handler("remind")
async def remind(ctx: Context, user: int) -> str:
    return f"reminded {user}"


@handlers.handler("charge")
async def charge(ctx: Context, order: int) -> None:
    raise ConnectionError("the bank is closed")


@handlers.handler("import", timeout_seconds=3600)
async def import_rows(ctx: Context, seconds: float) -> None:
    await trio.sleep(seconds)
"""

HEADER = """
import pytest
import trio
from trio.testing import MockClock

from jobs import charge, handlers, import_rows, remind


@pytest.fixture
def tq_handlers():
    return handlers
"""

RunProject = Callable[..., pytest.RunResult]


@pytest.fixture
def run_project(pytester: pytest.Pytester) -> RunProject:
    """Run pytest on these tests, with options; their handlers are in a module `jobs`."""

    def run(tests: str, *options: str, ini: str = "trio_mode = true") -> pytest.RunResult:
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
        pytester.makepyfile(jobs=JOBS, test_jobs=HEADER + tests)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options)

    return run
