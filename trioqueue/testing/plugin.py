"""The pytest plugin: the fixtures `tq` and `tq_server`, and their options. Loaded wherever pytest starts.

So nothing but pytest is imported here until a test asks for one of the fixtures, and no other test
is touched. It works with pytest-trio, with anyio's plugin and without either, and imports neither.
"""

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trioqueue.jobs.handlers import Handlers
    from trioqueue.testing.queue import QueueUnderTest
    from trioqueue.testing.server import ServerUnderTest

MARKER = """\
trioqueue(store=None, real_time=False, settings=None): how the fixtures tq and tq_server begin. \
store: sqlite, memory or the URL of a PostgreSQL database; settings: fields of trioqueue's settings."""

WORDS = ("store", "real_time", "settings")
DEFAULT_STORE = "sqlite"

STORE_HELP = "where the fixtures tq and tq_server keep jobs: sqlite, memory or postgresql://…"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trioqueue")
    group.addoption("--tq-store", metavar="STORE", default=None, help=STORE_HELP)
    parser.addini("tq_store", STORE_HELP, default=DEFAULT_STORE)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    _checked(_store(config, {}))


# Fixtures


@pytest.fixture
def tq_handlers() -> "Handlers | None":
    """The handlers of `tq` and `tq_server`. Override it; or give them to `tq.start`."""
    return None


@pytest.fixture
def tq(
    request: pytest.FixtureRequest, tmp_path: Path, tq_handlers: "Handlers | None"
) -> Iterator["QueueUnderTest"]:
    """A whole trioqueue of the test's own: in process, on a fresh store, in virtual time."""
    from trioqueue.testing.errors import AsyncHypothesis
    from trioqueue.testing.place import open_place
    from trioqueue.testing.queue import QueueUnderTest

    if _is_async_hypothesis(request.node):
        raise AsyncHypothesis
    wishes = _wishes(request.node)
    with open_place(_checked(_store(request.config, wishes)), tmp_path) as place:
        yield QueueUnderTest(
            place,
            handlers=tq_handlers,
            real_time=wishes.get("real_time", False),
            settings=wishes.get("settings"),
        )


@pytest.fixture
def tq_server(
    request: pytest.FixtureRequest, tmp_path: Path, tq_handlers: "Handlers | None"
) -> Iterator["ServerUnderTest"]:
    """`trioqueue serve` in a process of its own, in real time, on a free port: `tq_server.url`."""
    from trioqueue.testing.place import open_place
    from trioqueue.testing.server import open_server

    wishes = _wishes(request.node)
    directory = tmp_path / "tq_server"
    directory.mkdir()
    with (
        open_place(_checked(_store(request.config, wishes)), directory) as place,
        open_server(tq_handlers, place, directory, wishes.get("settings") or {}) as server,
    ):
        yield server


def _wishes(item: pytest.Item) -> dict[str, Any]:
    """What the markers say; the closest one wins, word by word."""
    wishes: dict[str, Any] = {}
    for marker in item.iter_markers("trioqueue"):
        if marker.args:
            said = ", ".join(map(repr, marker.args))
            raise pytest.UsageError(f"the marker trioqueue takes words only, not {said}: write store={said}")
        wishes = {**marker.kwargs, **wishes}
    _check_wishes(wishes)
    return wishes


def _check_wishes(wishes: dict[str, Any]) -> None:
    from trioqueue.testing.errors import unknown
    from trioqueue.testing.settings import check_settings

    for word in wishes:
        if word not in WORDS:
            raise pytest.UsageError(f"in the marker trioqueue {unknown(word, WORDS)}")
    try:
        check_settings(wishes.get("settings") or {})
    except TypeError as error:
        raise pytest.UsageError(str(error)) from None


def _store(config: pytest.Config, wishes: dict[str, Any]) -> str:
    return str(wishes.get("store") or config.getoption("--tq-store") or config.getini("tq_store"))


def _checked(store: str) -> str:
    """The name of a store; UsageError when it is none."""
    if store != DEFAULT_STORE:
        from trioqueue.testing.place import check_store

        try:
            check_store(store)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
    return store


def _is_async_hypothesis(item: pytest.Item) -> bool:
    """Whether Hypothesis calls this test, and it would have to be awaited."""
    of_hypothesis = getattr(getattr(item, "obj", None), "hypothesis", None)
    return inspect.iscoroutinefunction(getattr(of_hypothesis, "inner_test", None))


# Where it runs


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-trio asks its marker who runs a test: for those with `tq` it is us, around its own choice."""
    for item in items:
        if "tq" not in getattr(item, "fixturenames", ()):
            continue
        markers = list(item.iter_markers("trio"))
        if markers:
            chosen = next((m.kwargs["run"] for m in markers if m.kwargs.get("run") is not None), None)
            item.add_marker(pytest.mark.trio(run=_runner(item, chosen)), append=False)


def _runner(item: pytest.Item, chosen: Callable[..., Any] | None) -> Callable[..., Any]:
    """Runs a test's main function with the queue around it, on a clock that jumps unless one is given."""

    def run(main: Callable[..., Any], *arguments: Any, clock: Any = None, **options: Any) -> Any:
        import trio

        queue = _queue_of(item)
        if queue is None:
            return (chosen or trio.run)(main, *arguments, clock=clock, **options)
        clock = queue.trio_clock if clock is None else clock
        return (chosen or trio.run)(queue.hosted, main, *arguments, clock=clock, **options)

    return run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """With anyio's plugin the queue is around the test function, in the Trio run that anyio starts."""
    queue = _queue_of(pyfuncitem)
    backend: Any = pyfuncitem.funcargs.get("anyio_backend")  # a name, or a name and options
    if queue is None or backend is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return (yield)
    name, options = (backend, {}) if isinstance(backend, str) else backend
    if name != "trio":
        from trioqueue.testing.errors import NotTrio

        raise NotTrio(anyio=True)
    function = pyfuncitem.obj

    @wraps(function)
    async def hosted(**arguments: Any) -> None:
        await queue.hosted(lambda: function(**arguments))

    pyfuncitem.funcargs["anyio_backend"] = name, {"clock": queue.trio_clock, **options}
    pyfuncitem.obj = hosted
    try:
        return (yield)
    finally:
        pyfuncitem.obj = function
        pyfuncitem.funcargs["anyio_backend"] = backend


# What a failure shows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when == "call":
        queue = _queue_of(item)
        if queue is not None:
            report.sections += queue.report()
        server: ServerUnderTest | None = _ours(item, "tq_server", "server", "ServerUnderTest")
        if server is not None:
            report.sections.append(("trioqueue server", server.output()))
    return report


def _queue_of(item: pytest.Item) -> "QueueUnderTest | None":
    queue: QueueUnderTest | None = _ours(item, "tq", "queue", "QueueUnderTest")
    return queue


def _ours(item: pytest.Item, fixture: str, module: str, class_name: str) -> Any:
    """The value of a fixture if it is ours: a project may have one of the same name."""
    value = getattr(item, "funcargs", {}).get(fixture)
    loaded = sys.modules.get(f"trioqueue.testing.{module}")
    return value if loaded is not None and isinstance(value, getattr(loaded, class_name)) else None
