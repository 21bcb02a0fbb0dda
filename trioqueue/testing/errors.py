"""What a test may do wrong, said so that it can be put right; and what it may find out.

TestMistake
├── NotRunning         the queue has no Trio run to live in
├── NestedRun          the test runs in Trio already
├── AsyncHypothesis    Hypothesis calls an async test, and nobody awaits it around the queue
├── NoPostgres         the database of `--tq-store` cannot be used
├── NoHandlers         nobody has said which handlers there are
├── HandlersNotFound   a server in a process of its own cannot import them
├── AlreadyRunning     the server that is to start has not ended
├── NoVirtualTime      the Trio run keeps real time
├── NotTrio            the test runs on asyncio
└── CannotCut          `cut_everywhere` has nothing to compare with

AssertionError
├── NotDrained         there was always more to do, or something did not end
├── NeverHappened      what a test waited for has not come; a `trio.TooSlowError`, too
└── NotRepeatable      a cut did harm; it is in `cuts`, with its report
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches

import trio

ANYIO = """\
    @pytest.fixture
    def anyio_backend():
        return ("trio", {"clock": MockClock(autojump_threshold=0)})  # from trio.testing"""


class TestMistake(Exception):
    """A test asks for something that cannot work as it is set up."""

    __test__ = False  # not a class of tests


class NotRunning(TestMistake):
    """The queue lives in the Trio run of its test, and there is none."""

    def __init__(self, wish: str) -> None:
        super().__init__(
            f"{wish} needs a running test. tq runs during an `async def` test of pytest-trio or of anyio's "
            "plugin, also in pytest-trio's async fixtures; in a plain test write `tq.run(story)`, "
            "where `async def story(): ...` does the work. In async fixtures of anyio's plugin it does not "
            "run: let the test itself call an async function instead"
        )


class NestedRun(TestMistake):
    """One Trio run is enough."""

    def __init__(self) -> None:
        super().__init__("tq.run() is for plain tests; this one runs in Trio already: just `await` the story")


class AsyncHypothesis(TestMistake):
    """Hypothesis calls the test once for each example, each in a Trio run of its own that tq is not in."""

    def __init__(self) -> None:
        super().__init__(
            "with Hypothesis, write a plain `def` test with `tq.run(story)`, where `async def story(): ...` "
            "does the work, and\n\n"
            "    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])\n\n"
            "The store goes on from one example to the next"
        )


class NoPostgres(TestMistake):
    """The database that the tests shall run on cannot be used; `problem` says why."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"tests cannot run on {url}: {problem}")
        self.problem = problem


class NoHandlers(TestMistake):
    """Without handlers there is nothing to enqueue for."""

    def __init__(self) -> None:
        super().__init__(
            "there are no handlers: `await tq.start(handlers)`, or, for all tests of a module,\n\n"
            "    @pytest.fixture\n    def tq_handlers():\n        return handlers"
        )


class HandlersNotFound(TestMistake):
    """A process of its own can only be told a name, and these handlers have none."""

    def __init__(self) -> None:
        super().__init__(
            "tq_server runs in a process of its own, which imports the handlers by their name: "
            "they must be a global variable of a module, not made inside of a function"
        )


class AlreadyRunning(TestMistake, RuntimeError):
    """One server has one process."""

    def __init__(self) -> None:
        super().__init__("the server is running: stop() or kill() it before you start it again")


class NoVirtualTime(TestMistake):
    """The Trio run that the test is in keeps real time: nothing can move it."""

    def __init__(self, wish: str) -> None:
        super().__init__(
            f"{wish} needs virtual time, and this Trio run keeps real time. pytest-trio's tests and `tq.run` "
            "have virtual time unless they are marked with `real_time=True`. With anyio's plugin, where "
            f"async fixtures are used before the test begins, say\n\n{ANYIO}"
        )


class NotTrio(TestMistake):
    """The test runs on asyncio."""

    def __init__(self, *, anyio: bool) -> None:
        super().__init__(
            f"tq needs Trio, and anyio runs this test on asyncio. Say\n\n{ANYIO}"
            if anyio
            else "tq needs Trio, and this test runs on asyncio. Have pytest-trio run it, without the marker "
            "and the mode of pytest-asyncio; or write a plain `def` test with `tq.run(story)`"
        )


class CannotCut(TestMistake):
    """There is nothing to compare with: the handler does not do the same in every run, or does not end."""


class NotDrained(AssertionError):
    """There was always more to do, or something did not end."""

    def __init__(self, seconds: float, jobs: str, *, is_virtual: bool) -> None:
        super().__init__(f"not drained after {_length(seconds, is_virtual=is_virtual)}; left:\n{jobs}")


class NeverHappened(AssertionError, trio.TooSlowError):
    """What a test has waited for has not come."""

    def __init__(self, what: str, seconds: float, *, is_virtual: bool, remedy: str | None) -> None:
        waited = f"{what}, after {_length(seconds, is_virtual=is_virtual)}"
        super().__init__(waited if remedy is None else f"{waited}; {remedy}")


def not_running(wish: str) -> TestMistake:
    """What is wrong when there is no Trio run for the queue to live in."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        if not trio.lowlevel.in_trio_run():
            return NotTrio(anyio=False)
    return NotRunning(wish)


def _length(seconds: float, *, is_virtual: bool) -> str:
    days = seconds / 86_400
    length = f"{days:,.5g} {'day' if days == 1 else 'days'}" if days >= 1 else f"{seconds:g} seconds"
    return f"{length} of virtual time" if is_virtual else length


def unknown(name: str, known: Iterable[str]) -> str:
    """That nothing has this name, and which one was probably meant."""
    near = get_close_matches(name, list(known), n=1)
    return f"nothing is known of {name}" + (f"; did you mean {near[0]}?" if near else ".")
