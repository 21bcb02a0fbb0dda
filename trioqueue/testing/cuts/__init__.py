"""`cut_everywhere`: proves that a handler may be repeated, by cutting it at every point where it waits.

def test_a_charge_may_be_repeated(monkeypatch):
    def new_bank():
        bank = FakeBank()
        monkeypatch.setattr(charge_module, "bank", bank)
        return bank

    cut_everywhere(charge, {"order": 7}, world=new_bank, effects=lambda bank: bank.charges)
"""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handler, Handlers
from trioqueue.jobs.job import Status
from trioqueue.testing.cuts.life import live
from trioqueue.testing.cuts.subject import Cut, GaveUp, Life, Subject, World
from trioqueue.testing.cuts.where import Line
from trioqueue.testing.cuts.words import Finding, compare, result_of
from trioqueue.testing.errors import CannotCut

Function = Callable[..., object]

EVERY_KIND = tuple(Cut)


@dataclass(frozen=True, slots=True)
class CutReport:
    """What was tried. Print it: it says how much of the handler the promise covers."""

    handler: str
    points: int
    """How often the handler was resumed, from its beginning to its end, over all attempts of one job."""
    tried: dict[Cut, int] = field(default_factory=dict)
    """At how many points each kind of cut was tried."""
    skipped: int = 0
    """Points between those that were tried, because of `limit_points`."""
    findings: tuple[Finding, ...] = ()
    """For each kind of cut that did harm, the first point at which it did."""

    def __str__(self) -> str:
        runs = sum(self.tried.values())
        kinds = ", ".join(f"{cut} {number}" for cut, number in self.tried.items())
        harm = "; ".join(map(str, self.findings)) or "nobody could tell"
        sampled = f"; SAMPLED, {self.skipped} points were left out" if self.skipped else ""
        return f"{self.handler}: {self.points} points, cut {runs} times ({kinds}){sampled}: {harm}"


class NotRepeatable(AssertionError):
    """A cut did harm. The message tells where the first one fell, what came of it, and what helps."""

    def __init__(self, report: CutReport) -> None:
        first, *others = report.findings
        also = "".join(f"\nAlso {finding}" for finding in others)
        super().__init__(
            f"{report.handler} cannot be repeated: {first.harm.value}\n\n{first.story}"
            + (also and f"\n{also}")
        )
        self.report = report
        self.finding = first


def cut_everywhere(
    handler: Function | Handler,
    payload: Mapping[str, object],
    *,
    world: Callable[[], World],
    effects: Callable[[World], object] | None = None,
    check: Callable[[World], object] | None = None,
    on_kill: Callable[[World], object] | None = None,
    kinds: Collection[Cut | str] = EVERY_KIND,
    limit_points: int = 1000,
) -> CutReport:
    """Run the handler again and again, each time in a new world and cut at another point.

    `handler` is the function, or `handlers.find("type")`, which brings its timeout and attempts.
    `world()` makes what the handler has effects on, and puts it where the handler finds it; what it
    returns may be a context manager. `effects(world)` lists what has happened, `check(world)` raises
    or returns False when something is wrong; without both, the world itself is the list. Each may be
    async. `on_kill(world)` does what the world would do when the process dies: close its connections.

    A job that was cut must end as one that was not: the same effects, in any order, and the same
    result. Raises `NotRepeatable`, an AssertionError, with the first point where that is not so for
    each kind of cut, `CannotCut` when the handler does not do the same in two undisturbed runs,
    `InvalidInput` for a payload that does not fit.

    It has Trio runs of its own, in virtual time, and may be called anywhere: where an event loop is
    running, it works in a thread and holds the loop up meanwhile.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    wanted = [Cut(kind) for kind in kinds]
    if not wanted or limit_points < 1:
        raise ValueError("there is nothing to try: `kinds` is empty, or `limit_points` below 1")
    subject = Subject(
        handler=_registered(handler),
        payload=codec.encode(payload),
        world=world,
        effects=(lambda world: world) if effects is None and check is None else effects,
        check=check,
        on_kill=on_kill,
    )
    subject.handler.parse(codec.decode_kept(subject.payload))
    report = _apart(partial(_cut_everywhere, subject, wanted, limit_points))
    if report.findings:
        raise NotRepeatable(report)
    return report


def _cut_everywhere(subject: Subject, kinds: list[Cut], limit_points: int) -> CutReport:
    undisturbed = _undisturbed(subject)
    ends = set(undisturbed.ends)
    within = [point for point in range(1, undisturbed.steps + 1) if point not in ends]
    sampled = _sampled(within, limit_points)
    tried: dict[Cut, int] = {}
    findings: list[Finding] = []
    for cut in EVERY_KIND:
        if cut not in kinds:
            continue
        tried[cut] = 0
        for point in undisturbed.ends if cut is Cut.DELIVERED_TWICE else sampled:
            tried[cut] += 1
            finding = compare(cut, point, _live(subject, cut, point), undisturbed)
            if finding is not None:
                findings.append(finding)
                break
    return CutReport(
        handler=_name(subject.handler.function),
        points=undisturbed.steps,
        tried=tried,
        skipped=len(within) - len(sampled),
        findings=tuple(findings),
    )


def _undisturbed(subject: Subject) -> Life:
    """What everything is compared with. Raises `CannotCut` when that would say nothing."""
    name = _name(subject.handler.function)
    life, again = _live(subject), _live(subject)
    if life.job.status is not Status.COMPLETED:
        raise CannotCut(f"{name} does not complete even if nothing is cut: {life.error or life.job.reason}")
    if life.complaint is not None:
        raise CannotCut(f"check(world) fails even if nothing is cut: {life.complaint!r}") from life.complaint
    if not life.effects and subject.check is None:
        raise CannotCut(f"{name} has no effects even if nothing is cut: does effects(world) see them?")
    for what, first, second in (
        ("have the same effects", life.effects, again.effects),
        ("have the same result", result_of(life.job), result_of(again.job)),
        ("take the same steps", (life.steps, life.ends), (again.steps, again.ends)),
    ):
        if first != second:
            raise CannotCut(
                f"{name} does not {what} in two runs in which nothing is cut: {first!r}, then {second!r}. "
                "Is each world new? Leave out of effects(world) what is different in every run"
            )
    return life


def _live(subject: Subject, cut: Cut | None = None, point: int | None = None) -> Life:
    try:
        life = live(subject, cut, point)
    except GaveUp as error:
        raise CannotCut(_why(subject, cut, point, error.why, error.where)) from None
    if cut is not None and not life.was_cut:
        raise CannotCut(
            _why(subject, cut, point, "it ended before: it does not do the same in every run", ())
        )
    return life


def _why(subject: Subject, cut: Cut | None, point: int | None, why: str, where: tuple[Line, ...]) -> str:
    name = _name(subject.handler.function)
    lines = [f"{name}: {why}" if cut is None else f"{name}, {cut} at point {point}: {why}"]
    if where:
        lines += ["It waited at", *(str(line) for line in where)]
    if where and cut is not None:
        lines.append(
            "Does a lock or a connection of the killed attempt live on? `on_kill(world)` can end it, as the "
            "end of a process does"
        )
    return "\n".join(lines)


def _sampled(points: list[int], limit: int) -> list[int]:
    """All of them, or `limit` at even distances from the first to the last."""
    if len(points) <= limit:
        return points
    return [points[number * (len(points) - 1) // max(limit - 1, 1)] for number in range(limit)]


def _registered(handler: Function | Handler) -> Handler:
    if isinstance(handler, Handler):
        return handler
    if not callable(handler):
        raise TypeError(f'a handler is expected: a function, or handlers.find("type"), not {handler!r}')
    handlers = Handlers()
    handlers.handler("handler")(handler)
    return handlers.find("handler")


def _name(function: Function) -> str:
    return getattr(function, "__qualname__", repr(function)).replace("<locals>.", "")


def _apart(work: Callable[[], CutReport]) -> CutReport:
    """Call `work`, in a thread where an event loop is running: Trio cannot run inside of it."""
    if not (trio.lowlevel.in_trio_run() or _in_asyncio()):
        return work()
    answers: list[CutReport] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def call() -> None:
        try:
            answers.append(context.run(work))
        except BaseException as error:  # noqa: ASYNC103
            errors.append(error)

    thread = threading.Thread(target=call, name="cut_everywhere", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _in_asyncio() -> bool:
    if "asyncio" not in sys.modules:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
