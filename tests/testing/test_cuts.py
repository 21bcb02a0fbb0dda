"""`cut_everywhere`: finds what cannot be repeated, says where, and lets the rest pass."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from random import Random, SystemRandom

import pytest
import trio

from tests.conftest import ROOT
from trioqueue import Context, Handlers
from trioqueue.errors import InvalidJob, LeaseLost
from trioqueue.testing import CannotCut, Cut, CutReport, Harm, NotRepeatable, cut_everywhere
from trioqueue.testing.cuts import steps

EXAMPLES = ROOT / "docs" / "examples"


class World:
    """What handlers have effects on, and remember things in."""

    def __init__(self) -> None:
        self.effects: list[object] = []
        self.done: object = None
        self.epoch = 0
        self.lock = trio.Lock()

    def once(self, key: object) -> None:
        """An effect that recognises its repetition."""
        if key not in self.effects:
            self.effects.append(key)


world = World()


def new_world() -> World:
    global world
    world = World()
    return world


def cut(handler: Callable[..., object], *kinds: Cut, **options: object) -> CutReport:
    options = {"world": new_world, "effects": lambda world: world.effects, **options}
    return cut_everywhere(handler, {}, kinds=kinds or tuple(Cut), **options)  # type: ignore[arg-type]


def harm(handler: Callable[..., object], *kinds: Cut, **options: object) -> NotRepeatable:
    with pytest.raises(NotRepeatable) as caught:
        cut(handler, *kinds, **options)
    return caught.value


# One mistake for each kind of cut, which the other kinds do not find


async def takes_back_when_interrupted(ctx: Context) -> None:
    if world.done:
        return
    world.effects.append("charged")
    try:
        await trio.sleep(1)
        await ctx.progress(1)  # a late attempt hears of it here
        world.done = True
    except BaseException:
        world.effects.remove("charged")
        raise


async def sends_at_the_end(ctx: Context) -> None:
    await trio.sleep(1)
    if ctx.epoch > world.epoch:
        world.epoch = ctx.epoch
        world.effects.append("sent")


async def complains_when_interrupted(ctx: Context) -> None:
    try:
        await trio.sleep(1)
    except trio.Cancelled:
        world.effects.append("complained")
        raise
    world.once("sent")


async def looks_then_sends(ctx: Context) -> None:
    there = "sent" in world.effects
    await trio.sleep(1)
    if not there:
        world.effects.append("sent")


MISTAKES = {
    Cut.KILLED: takes_back_when_interrupted,
    Cut.DELIVERED_TWICE: sends_at_the_end,
    Cut.LEASE_LOST: complains_when_interrupted,
    Cut.OVERLAPPED: looks_then_sends,
}


@pytest.mark.parametrize("kind", Cut)
def test_each_kind_of_cut_finds_what_the_others_do_not(kind: Cut) -> None:
    assert harm(MISTAKES[kind], kind).finding.harm in (Harm.TWICE, Harm.MORE)
    cut(MISTAKES[kind], *[other for other in Cut if other is not kind])


async def sends_once(ctx: Context) -> str:
    for number in range(3):
        await ctx.progress(number, 3)
        await trio.sleep(60)
        world.once(f"{ctx.idempotency_key} {number}")
        await trio.sleep(60)
    return "three sent"


def test_a_handler_that_may_be_repeated_passes_and_the_report_says_what_was_tried() -> None:
    report = cut(sends_once)
    assert report.points == 10
    assert report.tried == {
        Cut.KILLED: 9,
        Cut.DELIVERED_TWICE: 1,
        Cut.LEASE_LOST: 9,
        Cut.OVERLAPPED: 9,
    }
    assert str(report) == (
        "sends_once: 10 points, cut 28 times "
        "(killed 9, delivered twice 1, lease lost 9, overlapped 9): nobody could tell"
    )


# What is harm


async def notes_first(ctx: Context) -> None:
    if world.done:
        return
    world.done = True
    await trio.sleep(1)
    world.effects.append("sent")
    await trio.sleep(1)


def test_an_effect_that_never_happens_is_found() -> None:
    error = harm(notes_first)
    assert error.finding.harm is Harm.LOST
    assert error.finding.differences == ("0 × 'sent', which happens once when nothing is cut",)
    assert "Do it first" in str(error)


async def makes_a_name_of_its_own(ctx: Context) -> None:
    world.effects.append(f"file {len(world.effects)}")
    await trio.sleep(1)


def test_an_effect_with_another_value_is_found() -> None:
    assert harm(makes_a_name_of_its_own).finding.differences == (
        "1 × 'file 1', which does not happen when nothing is cut",
    )


async def minds_what_is_there(ctx: Context) -> str:
    if world.done:
        raise FileExistsError("out.txt")
    world.done = True
    world.effects.append("out.txt")
    await trio.sleep(1)
    return "written"


def test_a_job_that_dies_because_of_a_cut_is_found() -> None:
    error = harm(minds_what_is_there)
    assert error.finding.harm is Harm.ENDED
    assert error.finding.differences == ("the job is dead: FileExistsError: out.txt",)


async def has_another_result(ctx: Context) -> str:
    world.once("sent")
    await trio.sleep(1)
    return f"attempt {ctx.epoch}"


def test_another_result_is_found() -> None:
    assert harm(has_another_result, Cut.KILLED).finding.differences == (
        "the result is 'attempt 2', and 'attempt 1' when nothing is cut",
    )


async def counts_up(ctx: Context) -> None:
    world.epoch += 1
    await trio.sleep(1)


def test_a_check_of_ones_own_takes_the_place_of_effects() -> None:
    def check(world: World) -> None:
        if world.epoch != 1:
            raise AssertionError(f"counted to {world.epoch}")

    error = harm(counts_up, effects=None, check=check)
    assert error.finding.differences == ("check(world): AssertionError: counted to 2",)
    assert isinstance(error.finding.complaint, AssertionError)
    assert harm(counts_up, effects=None, check=lambda world: world.epoch == 1).finding.harm is Harm.CHECK


def test_the_world_itself_may_be_the_list_of_effects() -> None:
    sent: list[str] = []

    def new_list() -> list[str]:
        nonlocal sent
        sent = []
        return sent

    async def send(ctx: Context, to: str) -> None:
        sent.append(to)
        await trio.sleep(1)

    with pytest.raises(NotRepeatable, match="2 × 'ada', which happens once"):
        cut_everywhere(send, {"to": "ada"}, world=new_list)


def test_effects_need_not_be_hashable() -> None:
    async def send(ctx: Context) -> None:
        world.effects.append({"to": ["ada"]})
        await trio.sleep(1)

    assert harm(send).finding.differences == ("2 × {'to': ['ada']}, which happens once when nothing is cut",)


# What it is to be killed


async def has_many_hands(ctx: Context) -> None:
    async def work(name: str) -> None:
        try:
            for _ in range(3):
                await trio.sleep(1)
                world.effects.append((ctx.epoch, name))
        finally:
            world.effects.append((ctx.epoch, f"{name} tidied up"))

    async with trio.open_nursery() as nursery:
        for name in ("left", "right"):
            nursery.start_soon(work, name)


def test_nothing_of_a_killed_attempt_runs_any_more() -> None:
    def check(world: World) -> None:
        if "killed" in world.effects:
            late = world.effects[world.effects.index("killed") + 1 :]
            assert all(isinstance(effect, tuple) and effect[0] == 2 for effect in late), late
            assert len(late) == 8

    report = cut(
        has_many_hands,
        Cut.KILLED,
        effects=None,
        check=check,
        on_kill=lambda world: world.effects.append("killed"),
    )
    assert report.tried[Cut.KILLED] > 8


async def tells_where_it_is(ctx: Context) -> None:
    async def send() -> None:
        world.effects.append("sent")
        await trio.sleep(5)  # here

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 10)
        nursery.start_soon(send)


def test_the_point_is_told_by_its_line() -> None:
    error = harm(tells_where_it_is, Cut.KILLED)
    [line] = error.finding.where
    assert (line.function, line.text) == ("send", "await trio.sleep(5)  # here")
    assert re.search(
        r"\(point \d of \d+\), while it waited at\n\n    \S*test_cuts.py:\d+ in send\n", str(error)
    )


async def learns_of_it(ctx: Context) -> None:
    world.once(f"job {ctx.job.id} attempt {ctx.attempt}")
    try:
        await trio.sleep(100)
        await ctx.progress(1)
    except LeaseLost:
        world.done = "told"
        raise
    finally:
        if ctx.epoch == 1 and world.epoch:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
    world.epoch = ctx.epoch


def test_ids_attempts_and_fences_are_those_of_a_real_store() -> None:
    def check(world: World) -> bool:
        return world.epoch == 1 or (world.epoch == 2 and world.done == "told")

    assert cut(learns_of_it, Cut.OVERLAPPED, check=check).tried == {Cut.OVERLAPPED: 2}


# Every kind of handler


async def needs_three_attempts(ctx: Context) -> str:
    await trio.sleep(1)
    world.once("prepared")
    if ctx.attempt < 3:
        raise OSError("not yet")
    await trio.sleep(1)
    world.once("sent")
    return "sent"


def test_a_handler_that_fails_first_is_cut_in_every_attempt() -> None:
    report = cut(needs_three_attempts)
    assert report.points == 2 + 2 + 3
    assert report.tried[Cut.DELIVERED_TWICE] == 3


async def comes_back_later(ctx: Context) -> None:
    await trio.sleep(1)
    if "asked" not in world.effects:
        world.effects.append("asked")
        ctx.snooze(3600)
    world.once("sent")


def test_a_handler_that_snoozes_is_cut_before_and_after() -> None:
    assert cut(comes_back_later).tried[Cut.DELIVERED_TWICE] == 2


async def is_slow_the_first_time(ctx: Context) -> None:
    await trio.sleep(100 if ctx.attempt == 1 else 1)
    world.once("sent")


def test_the_timeout_of_a_registered_handler_counts() -> None:
    handlers = Handlers()
    handlers.handler("slow", timeout_seconds=10, max_attempts=2)(is_slow_the_first_time)
    report = cut_everywhere(
        handlers.find("slow"), {}, world=new_world, effects=lambda world: world.effects, kinds=["killed"]
    )
    assert report.tried == {Cut.KILLED: 2}


def counts_in_a_thread(ctx: Context) -> str:
    for number in range(3):
        ctx.check_cancelled()
        world.effects.append(number)
        ctx.report(number, 3)
    return "counted"


def test_a_plain_function_is_cut_where_it_asks_or_reports() -> None:
    error = harm(counts_in_a_thread, Cut.KILLED)
    [line] = error.finding.where
    assert line.text == "ctx.report(number, 3)"
    assert error.finding.differences == ("2 × 0, which happens once when nothing is cut",)


def counts_once_in_a_thread(ctx: Context) -> str:
    for number in range(3):
        ctx.check_cancelled()
        world.once(number)
        ctx.report(number, 3)
    return "counted"


def test_a_plain_function_that_may_be_repeated_passes_with_the_same_points_each_time() -> None:
    assert cut(counts_once_in_a_thread) == cut(counts_once_in_a_thread)


async def runs_a_command(ctx: Context) -> str:
    done = await ctx.run_process([sys.executable, "-c", "print('hello')"])
    world.once("greeted")
    await trio.sleep(1)
    return done.stdout.decode()


def test_a_command_is_one_step() -> None:
    assert cut(runs_a_command, Cut.KILLED).points == 4


# Worlds


def test_a_world_may_be_a_context_manager_and_is_closed_after_each_run() -> None:
    opened: list[World] = []
    closed: list[World] = []

    @contextmanager
    def open_world() -> Iterator[World]:
        opened.append(new_world())
        yield world
        closed.append(world)

    report = cut(sends_once, world=open_world)
    assert opened == closed
    assert len(opened) == 2 + sum(report.tried.values())


def test_a_world_may_have_tasks_of_its_own_which_live_on_when_the_handler_is_killed() -> None:
    inbox: trio.MemorySendChannel[str] | None = None

    @asynccontextmanager
    async def open_server() -> AsyncIterator[list[str]]:
        nonlocal inbox
        got: list[str] = []
        inbox, letters = trio.open_memory_channel[str](0)

        async def serve() -> None:
            async for letter in letters:
                await trio.sleep(1)
                if letter not in got:
                    got.append(letter)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield got
            nursery.cancel_scope.cancel()

    async def post(ctx: Context) -> None:
        assert inbox is not None
        await inbox.send(ctx.idempotency_key)
        await trio.sleep(2)

    assert cut_everywhere(post, {}, world=open_server).findings == ()


async def holds_a_lock(ctx: Context) -> None:
    async with world.lock:
        await trio.sleep(1)
        world.once("sent")


def test_a_lock_that_outlives_its_process_is_told_and_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "IDLE_SECONDS", 0.1)
    with pytest.raises(
        CannotCut, match=r"killed at point 1: nothing happened any more(.|\n)*async with world.lock"
    ):
        cut(holds_a_lock, Cut.KILLED)

    def break_lock(world: World) -> None:
        world.lock = trio.Lock()

    cut(holds_a_lock, Cut.KILLED, on_kill=break_lock)


class Database:
    """An SQLite file, and the connections that processes have to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: list[sqlite3.Connection] = []
        self.connect().execute("CREATE TABLE IF NOT EXISTS sent (key TEXT UNIQUE)")

    def connect(self) -> sqlite3.Connection:
        self._connections.append(sqlite3.connect(self._path, timeout=0))
        return self._connections[-1]

    def disconnect(self) -> None:
        for connection in self._connections:
            connection.close()

    def sent(self) -> list[object]:
        return self.connect().execute("SELECT * FROM sent").fetchall()


def test_a_transaction_ends_with_its_process_when_the_world_says_so(tmp_path: Path) -> None:
    numbers = count()
    database: Database

    @contextmanager
    def new_database() -> Iterator[Database]:
        nonlocal database
        database = Database(tmp_path / f"{next(numbers)}.db")
        yield database
        database.disconnect()

    async def send(ctx: Context) -> None:
        with database.connect() as connection:
            connection.execute("INSERT OR IGNORE INTO sent VALUES (?)", [ctx.idempotency_key])
            await trio.sleep(1)

    trial = partial(cut_everywhere, send, {}, world=new_database, effects=Database.sent, kinds=[Cut.KILLED])
    with pytest.raises(
        NotRepeatable, match=r"the job is dead: OperationalError: database is locked(.|\n)*on_kill"
    ):
        trial()
    trial(on_kill=Database.disconnect)


# What cannot be tried


async def does_nothing(ctx: Context) -> None:
    await trio.sleep(1)


async def is_different_every_time(ctx: Context) -> None:
    world.effects.append(SystemRandom().random())


async def takes_other_steps(ctx: Context) -> None:
    world.once("sent")
    for _ in range(Random().randrange(10, 10_000)):
        await trio.lowlevel.checkpoint()


async def always_fails(ctx: Context) -> None:
    raise OSError("no bank")


async def never_ends(ctx: Context) -> None:
    while True:  # noqa: ASYNC110
        await trio.sleep(1)


async def ignores_cancellation(ctx: Context) -> None:
    while True:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            continue


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (does_nothing, "does_nothing has no effects even if nothing is cut"),
        (is_different_every_time, "does not have the same effects in two runs"),
        (takes_other_steps, "does not take the same steps in two runs"),
        (always_fails, "does not complete even if nothing is cut(.|\n)*OSError: no bank"),
        (never_ends, "it had taken 1000 steps and not ended\nIt waited at\n(.|\n)*await trio.sleep"),
        (ignores_cancellation, "it had taken 1000 steps and not ended\nIt waited at\n"),
    ],
)
def test_what_says_nothing_is_refused(
    handler: Callable[..., Awaitable[None]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MOST_STEPS", 1000 if "1000" in words else 100_000)
    with pytest.raises(CannotCut, match=words):
        cut(handler)


def test_a_payload_that_does_not_fit_is_refused() -> None:
    async def greet(ctx: Context, name: str) -> None: ...

    with pytest.raises(InvalidJob, match="/payload/name"):
        cut_everywhere(greet, {"name": 7}, world=new_world)


def test_the_mistakes_of_the_callers_own_functions_come_out_as_they_are() -> None:
    def broken(world: World) -> object:
        raise LookupError("effects")

    with pytest.raises(LookupError, match="effects"):
        cut(sends_once, effects=broken)
    with pytest.raises(TypeError, match="one item for each, not 7"):
        cut(sends_once, effects=lambda world: 7)
    with pytest.raises(ValueError, match="'murdered' is not a valid Cut"):
        cut_everywhere(sends_once, {}, world=new_world, kinds=["murdered"])
    with pytest.raises(TypeError, match="a handler is expected"):
        cut("sends_once")  # type: ignore[arg-type]


def test_a_sample_says_so() -> None:
    report = cut(sends_once, limit_points=4)
    assert report.tried == {Cut.KILLED: 4, Cut.DELIVERED_TWICE: 1, Cut.LEASE_LOST: 4, Cut.OVERLAPPED: 4}
    assert "SAMPLED, 5 points were left out" in str(report)


# Where it may be called


async def test_it_may_be_called_inside_of_a_trio_run() -> None:
    assert harm(looks_then_sends).finding.cut is Cut.OVERLAPPED
    assert cut(sends_once).findings == ()


def test_it_may_be_called_inside_of_an_asyncio_run() -> None:
    async def call() -> CutReport:
        return cut(sends_once)

    assert asyncio.run(call()).findings == ()


def test_it_leaves_randomness_as_it_was() -> None:
    before = Random.getstate(SHARED)
    cut(sends_once)
    assert Random.getstate(SHARED) == before


SHARED: Random = __import__("random")._inst


def test_two_processes_say_the_same() -> None:
    script = (
        "from tests.testing.test_cuts import *\n"
        "print(harm(tells_where_it_is), cut(sends_once), harm(has_many_hands), harm(counts_in_a_thread))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert "tells_where_it_is cannot be repeated" in said[0]


# The documented example


def test_the_documented_example_passes_where_it_lies() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(EXAMPLES), "test_charge.py"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documented_message_is_the_real_one() -> None:
    script = (
        "import charge, test_charge\n"
        "from trioqueue.testing import cut_everywhere\n"
        "def new_bank():\n"
        "    charge.bank = test_charge.FakeBank()\n"
        "    return charge.bank\n"
        "try:\n"
        "    effects = lambda bank: bank.charges.values()\n"
        "    cut_everywhere(charge.charge, test_charge.ORDER, world=new_bank, effects=effects)\n"
        "except AssertionError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    assert f"```text\n{done.stdout}```" in (ROOT / "docs" / "cut-everywhere.md").read_text()
