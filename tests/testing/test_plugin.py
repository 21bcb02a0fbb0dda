"""The plugin inside of a user's project: with pytest-trio, with anyio's plugin, with neither, and unasked."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import trioqueue.testing
from tests.testing.conftest import RunProject

pytest_plugins = ["pytester"]

STORY = """
async def test_a_reminder_comes_after_three_days(tq):
    job = await tq.enqueue("remind", {"user": 7}, delay="3d")
    await tq.assert_enqueued(remind, {"user": 7}, run_in="3d")
    await tq.clock.advance("3d")
    assert (await tq.drain()).completed == 1
    assert (await tq.job(job)).result == "reminded 7"
    assert tq.clock.now().isoformat() == "2030-01-04T00:00:00+00:00"
"""


def test_with_pytest_trio_a_test_has_virtual_time_unasked(run_project: RunProject) -> None:
    run_project(STORY).assert_outcomes(passed=1)


def test_with_pytest_trios_marker_instead_of_its_mode(run_project: RunProject) -> None:
    run_project("pytestmark = pytest.mark.trio\n" + STORY, ini="").assert_outcomes(passed=1)


@pytest.mark.parametrize("clock", ["autojump_clock", "mock_clock"])
def test_with_a_clock_that_the_test_brings(run_project: RunProject, clock: str) -> None:
    story = STORY.replace("(tq)", f"(tq, {clock})") + f"    assert trio.lowlevel.current_clock() is {clock}\n"
    if clock == "mock_clock":  # time stands still unless the test moves it
        story = story.replace('run_in="3d")', 'run_in="3d")\n    assert trio.current_time() == 0')
    run_project(story).assert_outcomes(passed=1)


def test_async_fixtures_of_pytest_trio_may_use_it(run_project: RunProject) -> None:
    story = """
@pytest.fixture
async def service(tq):
    await tq.start()
    yield tq
    assert (await tq.drain(with_delayed=True)).attempts == 0

async def test_it(service, nursery):
    job = await service.enqueue("remind", {"user": 1}, delay="1d")
    nursery.start_soon(service.finished, job)
    assert (await service.finished(job)).status == "completed"
"""
    run_project(story).assert_outcomes(passed=1)


@pytest.mark.parametrize("backend", ['"trio"', '("trio", {"clock": MockClock(autojump_threshold=0)})'])
def test_with_anyios_plugin(run_project: RunProject, backend: str) -> None:
    story = f"""
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return {backend}
"""
    run_project(story + STORY, "-p", "no:trio", ini="").assert_outcomes(passed=1)


def test_anyios_async_fixtures_need_the_clock_to_be_named(run_project: RunProject) -> None:
    story = """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return BACKEND

@pytest.fixture
async def before():
    await trio.sleep(0)
"""
    advanced = STORY.replace("(tq)", "(before, tq)")
    named = story.replace("BACKEND", '("trio", {"clock": MockClock(autojump_threshold=0)})')
    run_project(named + advanced, "-p", "no:trio", ini="").assert_outcomes(passed=1)
    result = run_project(story.replace("BACKEND", '"trio"') + advanced, "-p", "no:trio", ini="")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NoVirtualTime: tq.clock.advance() needs virtual time*"])


def test_anyios_async_fixtures_cannot_use_it(run_project: RunProject) -> None:
    story = """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return ("trio", {"clock": MockClock(autojump_threshold=0)})

@pytest.fixture
async def job(tq):
    return await tq.enqueue("remind", {"user": 7})

async def test_it(tq, job):
    pass
"""
    result = run_project(story, "-p", "no:trio", ini="")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*NotRunning: tq needs *In async fixtures of anyio's plugin it does not run*"]
    )


def test_with_anyio_on_asyncio_it_says_what_to_do(run_project: RunProject) -> None:
    result = run_project("pytestmark = pytest.mark.anyio\n" + STORY, "-p", "no:trio", ini="")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*NotTrio: tq needs Trio, and anyio runs this test on asyncio. Say*"])


def test_plain_tests_run_their_stories_in_runs_of_their_own(run_project: RunProject) -> None:
    story = """
def test_it(tq):
    async def sign_up(user):
        return await tq.enqueue("remind", {"user": user}, delay="3d")

    async def three_days_later():
        assert (await tq.drain(with_delayed=True)).completed == 1
        return trio.current_time()

    job = tq.run(sign_up, 7)
    assert tq.run(three_days_later) == 3 * 86_400
    assert tq.run(tq.job, job).result == "reminded 7"
"""
    run_project(story, "-p", "no:trio", "-p", "no:anyio", ini="").assert_outcomes(passed=1)


def test_outside_of_a_run_it_says_what_to_do(run_project: RunProject) -> None:
    story = """
def test_it(tq):
    for wish in (tq.start, tq.jobs, tq.drain, lambda: tq.enqueue("remind"), lambda: tq.client.get("/jobs")):
        with pytest.raises(Exception, match="in a plain test write `tq.run"):
            trio.run(wish)

async def test_inside_of_one(tq):
    with pytest.raises(Exception, match="this one runs in Trio already: just `await` the story"):
        tq.run(tq.jobs)
"""
    run_project(story).assert_outcomes(passed=2)


def test_on_asyncio_without_anyio_it_says_what_to_do(run_project: RunProject) -> None:
    story = """
import asyncio

def test_as_pytest_asyncio_runs_it(tq):
    async def story(wish):
        with pytest.raises(Exception, match="this test runs on asyncio. Have pytest-trio run it"):
            await wish()

    waits = [lambda: tq.finished("x"), lambda: tq.clock.advance(1)]
    for wish in (tq.start, tq.jobs, tq.drain, lambda: tq.client.get("/jobs"), *waits):
        asyncio.run(story(wish))
"""
    run_project(story).assert_outcomes(passed=1)


HYPOTHESIS = """
from hypothesis import HealthCheck, given, settings, strategies

numbers = given(n=strategies.integers(1, 3))
few = settings(
    max_examples=5, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""


def test_with_hypothesis_a_plain_test_runs_its_story_for_each_example(run_project: RunProject) -> None:
    story = """
@few
@numbers
def test_it(tq, n):
    async def story():
        before = len(await tq.jobs())
        for _ in range(n):
            await tq.enqueue("remind", {"user": n})
        assert len(await tq.jobs()) == before + n
        await tq.drain()

    tq.run(story)
"""
    run_project(HYPOTHESIS + story).assert_outcomes(passed=1)


@pytest.mark.parametrize("runner", ["trio", "anyio"])
def test_with_hypothesis_an_async_test_is_told_what_to_write(run_project: RunProject, runner: str) -> None:
    story = f"""
@pytest.mark.{runner}
@few
@numbers
async def test_it(tq, n):
    await tq.enqueue("remind", {{"user": n}})

@pytest.fixture
def anyio_backend():
    return "trio"
"""
    options = ["-p", "no:trio"] if runner == "anyio" else []
    result = run_project(HYPOTHESIS + story, *options, ini="")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*AsyncHypothesis: with Hypothesis, write a plain `def` test with `tq.run*"])


def test_without_handlers_it_says_what_to_do(run_project: RunProject) -> None:
    story = """
@pytest.fixture
def tq_handlers():
    return None

async def test_it(tq):
    with pytest.raises(Exception, match="there are no handlers"):
        await tq.enqueue("remind", {"user": 7})
    await tq.start(handlers)
    await tq.enqueue("remind", {"user": 7})
"""
    run_project(story).assert_outcomes(passed=1)


def test_real_time_is_there_for_those_who_ask(run_project: RunProject) -> None:
    story = """
@pytest.mark.trioqueue(real_time=True)
async def test_it(tq):
    assert not isinstance(trio.lowlevel.current_clock(), MockClock)
    await tq.enqueue("remind", {"user": 7})
    assert (await tq.drain()).completed == 1
    with pytest.raises(Exception, match="needs virtual time"):
        await tq.clock.advance("3d")
    with pytest.raises(Exception, match="needs virtual time"):
        tq.clock.jump("3d")
"""
    run_project(story).assert_outcomes(passed=1)


# What a failure shows


def test_a_failed_test_shows_the_jobs_and_the_events(run_project: RunProject) -> None:
    story = """
async def test_it(tq):
    await tq.enqueue("charge", {"order": 42})
    await tq.drain()
    await tq.assert_enqueued(charge, {"order": 43})
"""
    result = run_project(story)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*expected a job: type='charge', payload={'order': 43}",
            "*charge ????????????: payload.order is 42",
            "*- trioqueue jobs -*",
            "id *type *queue *status *attempt *run_at *payload *reason",
            "* charge *default *pending *1/5 *2030-01-01 00:00:0* {'order': 42}*Error: the bank is closed",
            "*- trioqueue events -*",
            "*00:00:00.000000 JobEnqueued charge ???????????? due 2030-01-01 00:00:00",
            "*AttemptStarted charge ???????????? attempt 1 on node-1, worker *",
            "*AttemptEnded charge ???????????? failed after 0 s, now pending: Conn*: the bank is closed",
        ]
    )


def test_an_error_in_a_plain_test_shows_them_too(run_project: RunProject) -> None:
    story = """
def test_it(tq):
    tq.run(tq.enqueue, "remind", {"user": 7})
    assert False
"""
    result = run_project(story)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- trioqueue jobs -*", "*remind *pending *0/5 *{'user': 7}"])


def test_a_node_that_breaks_fails_the_test(run_project: RunProject) -> None:
    story = """
async def test_it(tq, monkeypatch):
    from trioqueue.runtime.dispatcher import Dispatcher

    async def run(self, channel):
        raise RuntimeError("broken")

    monkeypatch.setattr(Dispatcher, "run", run)
    await tq.start()
    await trio.sleep(3600)
"""
    result = run_project(story)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*LoopDied: the dispatcher loop failed 6 times within a minute"])


@pytest.mark.parametrize("call", ["drain()", "perform('ends')", "start(); await tq.clock.advance(9)"])
@pytest.mark.parametrize("error", ["pytest.fail('too late')", "pytest.skip('not here')"])
def test_what_ends_a_test_ends_it_although_a_handler_runs(
    run_project: RunProject, call: str, error: str
) -> None:
    """As the timeout of a plugin does, which is raised in whatever runs: not the handler's own error."""
    story = f"""
@handlers.handler("ends")
async def ends(ctx):
    {error}

async def test_it(tq):
    await tq.enqueue("ends")
    await tq.{call}
"""
    result = run_project(story)
    expected = {"failed": 1} if "fail" in error else {"skipped": 1}
    result.assert_outcomes(**expected)


def test_a_skip_is_a_skip(run_project: RunProject) -> None:
    story = """
async def test_it(tq):
    pytest.skip("not today")

@pytest.mark.xfail(strict=True)
async def test_expected(tq):
    await tq.assert_enqueued("remind")
"""
    run_project(story).assert_outcomes(skipped=1, xfailed=1)


# Where the jobs are kept


@pytest.mark.parametrize("store", ["sqlite", "memory"])
@pytest.mark.parametrize("said", ["by option", "by ini", "by marker"])
def test_the_store_is_chosen(run_project: RunProject, store: str, said: str) -> None:
    url = {"sqlite": "sqlite:///", "memory": "memory:"}[store]
    marker = f'pytestmark = pytest.mark.trioqueue(store="{store}")\n' if said == "by marker" else ""
    options = [f"--tq-store={store}"] if said == "by option" else []
    ini = f"trio_mode = true\n{f'tq_store = {store}' if said == 'by ini' else ''}"
    story = f"{marker}{STORY}    assert tq.place.url.startswith({url!r})\n"
    run_project(story, *options, ini=ini).assert_outcomes(passed=1)


def test_a_store_that_is_none_is_refused(run_project: RunProject) -> None:
    said = "is no store for tests; use sqlite, memory or postgresql:*"
    result = run_project(STORY, "--tq-store=mysql://nope")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: 'mysql://nope' {said}"])
    result = run_project('pytestmark = pytest.mark.trioqueue(store="redis")\n' + STORY)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*UsageError: 'redis' {said}"])


def test_a_database_that_is_not_there_is_told_once(run_project: RunProject) -> None:
    result = run_project(STORY, "--tq-store=postgresql://ann:secret@127.0.0.1:1/nowhere")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*NoPostgres: tests cannot run on postgresql://***@127.0.0.1:1/nowhere: conn*"]
    )


def test_a_driver_that_is_not_there_is_told_once(
    run_project: RunProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    result = run_project(STORY, "--tq-store=postgresql://127.0.0.1:1/nowhere")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*psycopg is missing (*): pip install 'trioqueue?postgres?'*"])


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("stoer=1", "in the marker trioqueue nothing is known of stoer; did you mean store[?]"),
        ('"memory"', "the marker trioqueue takes words only, not 'memory': write store='memory'"),
        (
            'settings={"worker_counts": 3}',
            "among the settings nothing is known of worker_counts; did you mean worker_count[?]",
        ),
        ('settings={"store": "memory:"}', "the setting store is said otherwise in tests: *store=*"),
    ],
)
def test_a_marker_with_a_mistake_is_refused(run_project: RunProject, marker: str, said: str) -> None:
    result = run_project(f"pytestmark = pytest.mark.trioqueue({marker})\n" + STORY)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*UsageError: {said}"])


def test_a_node_with_a_setting_that_there_is_none_of_is_refused(run_project: RunProject) -> None:
    story = """
async def test_it(tq):
    with pytest.raises(TypeError, match="nothing is known of lease_second; did you mean lease_seconds"):
        await tq.start(lease_second=5)
    with pytest.raises(TypeError, match="the setting store is said otherwise in tests"):
        await tq.start(store="memory:")
"""
    run_project(story).assert_outcomes(passed=1)


def test_the_same_tests_run_on_postgres_each_in_a_schema_that_is_dropped(
    run_project: RunProject, postgres_database: str
) -> None:
    performed = """
async def test_perform_and_a_second_test(tq):
    assert tq.place.schema.startswith("tq_")
    assert (await tq.perform(remind, {"user": 7})).result == "reminded 7"
    await tq.refute_enqueued()

async def test_a_transaction_of_ones_own(tq):
    from psycopg import connect
    from trioqueue.postgres import enqueue

    await tq.clock.advance("1h")
    with connect(tq.place.url) as connection:
        connection.execute("SELECT set_config('virtual.now', %s, false)", [tq.clock.now().isoformat()])
        job = enqueue(connection, "remind", {"user": 7}, schema=tq.place.schema, delay_seconds=60)
    assert (await tq.drain(with_delayed=True)).completed == 1
    assert (await tq.job(job)).created_at.hour == 1

async def test_cancel(tq):
    from trioqueue.events import AttemptStarted

    first, second = await tq.start(), await tq.start()
    jobs = [await tq.enqueue("import", {"seconds": 600}) for _ in range(4)]
    for job in jobs:
        await tq.wait_for(AttemptStarted, job=job)
        assert (await tq.cancel(job, wait="1m")).status == "cancelled"

async def test_troubles(tq):
    await tq.start(lease_seconds=30)
    tq.faults.fail_next("settle", after_commit=True)
    first = await tq.enqueue("remind", {"user": 7}, delay="1h")
    tq.clock.jump("1h")
    await tq.finished(first)
    second = await tq.enqueue("import", {"seconds": 40})
    await tq.clock.advance("1s")
    await tq.kill()
    await tq.start()
    await tq.clock.advance("45s")
    await tq.lose_lease(second)
    await tq.finished(second)
    outcomes = [[str(attempt.outcome) for attempt in await tq.attempts(job)] for job in (first, second)]
    assert outcomes == [["completed"], ["lost", "lost", "completed"]]
"""
    run_project(STORY + performed, f"--tq-store={postgres_database}").assert_outcomes(passed=5)
    with psycopg.connect(postgres_database) as connection:
        left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tq%'").fetchall()
    assert left == []


# Those who do not use it


def test_loading_the_plugin_imports_nothing_but_pytest(tmp_path: Path) -> None:
    script = "import sys, pytest; before = set(sys.modules); import trioqueue.testing.plugin; "
    script += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["trioqueue", "trioqueue.testing", "trioqueue.testing.plugin"])


def test_a_project_may_have_fixtures_of_these_names(run_project: RunProject) -> None:
    story = """
@pytest.fixture
def tq():
    return "mine"

@pytest.fixture
def tq_server():
    return "mine"

async def test_it(tq, tq_server):
    assert tq == tq_server == "mine"
    assert not isinstance(trio.lowlevel.current_clock(), MockClock)

async def test_that_fails(tq, tq_server):
    assert not tq
"""
    run_project(story).assert_outcomes(passed=1, failed=1)


def test_a_fixture_may_give_it_another_name(run_project: RunProject) -> None:
    run_project(
        "@pytest.fixture\ndef queue(tq):\n    return tq\n" + STORY.replace("tq", "queue")
    ).assert_outcomes(passed=1)


def test_a_project_without_trio_is_left_in_peace(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio, sys, pytest

        @pytest.fixture
        def tq_handlers_are_not_mine():
            return 1

        def test_it(tq_handlers_are_not_mine):
            assert "trioqueue.node" not in sys.modules and "quart" not in sys.modules
        """
    )
    options = ["-p", "no:trio", "-p", "no:anyio", "-p", "no:cacheprovider", "-W", "error", "--strict-markers"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=pytester.path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exported_names_are_there() -> None:
    assert all(hasattr(trioqueue.testing, name) for name in trioqueue.testing.__all__)
    assert not hasattr(trioqueue.testing, "TestQueue")
