"""What went wrong at a cut, and how it is told: compared with a life in which nothing was cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from trioqueue.jobs import codec
from trioqueue.jobs.job import Job
from trioqueue.testing.cuts.subject import Cut, Life
from trioqueue.testing.cuts.where import Line

MOST_DIFFERENCES = 10


class Harm(Enum):
    """What is wrong, the worst first."""

    TWICE = "an effect happened twice"
    MORE = "an effect happened that does not happen when nothing is cut"
    ENDED = "the job ended in another way"
    LOST = "an effect was lost"
    CHECK = "the check failed"
    RESULT = "the job has another result"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first point at which one way of cutting did harm."""

    cut: Cut
    point: int
    points: int
    where: tuple[Line, ...]
    """The lines at which the attempt waited when it was cut, the handler's first, then what it had called."""
    harm: Harm
    differences: tuple[str, ...]
    complaint: BaseException | None

    def __str__(self) -> str:
        return f"{self.cut} at point {self.point} of {self.points}{self._place}: {self.harm.value}"

    @property
    def _place(self) -> str:
        return f" ({self.where[0].place})" if self.where and self.cut is not Cut.DELIVERED_TWICE else ""

    @property
    def story(self) -> str:
        """What was done, where, what came of it, and what helps."""
        before, after = STORIES[self.cut]
        lines = [f"{before} (point {self.point} of {self.points})"]
        if self.where and self.cut is not Cut.DELIVERED_TWICE:
            lines[0] += ", while it waited at\n"
            lines += [_indented(str(line)) for line in self.where]
            lines.append("")
        else:
            lines[0] += "."
        lines += [f"{after} Then:\n", *(_indented(difference) for difference in self.differences)]
        return "\n".join([*lines, "", self.advice])

    @property
    def advice(self) -> str:
        match self.harm:
            case Harm.TWICE | Harm.MORE if self.cut is Cut.LEASE_LOST:
                return ADVICE_CLEANUP
            case Harm.TWICE | Harm.MORE if self.cut is Cut.OVERLAPPED:
                return ADVICE_OVERLAP
            case Harm.TWICE | Harm.MORE:
                return ADVICE_TWICE
            case Harm.LOST:
                return ADVICE_LOST
            case Harm.ENDED:
                return ADVICE_ENDED
            case Harm.CHECK | Harm.RESULT:
                return ADVICE_OTHER
            case _:
                assert_never(self.harm)


STORIES = {
    Cut.KILLED: ("Killed", "Nothing of it ran any more; another attempt ran to the end."),
    Cut.DELIVERED_TWICE: (
        "Delivered twice: the handler returned, and its process died before that was recorded",
        "Another attempt ran to the end.",
    ),
    Cut.LEASE_LOST: (
        "Its lease was lost and it was cancelled",
        "It cleaned up; then another attempt ran to the end.",
    ),
    Cut.OVERLAPPED: (
        "Paused for longer than its lease",
        "Another attempt ran from beginning to end; then this one went on.",
    ),
}

ADVICE_TWICE = """\
What helps: let whoever has the effect recognise the repetition. `ctx.idempotency_key` is the same in
every attempt: give it to the API, or keep it under a unique constraint, in one transaction with the
effect. With a PostgreSQL store, `ctx.transaction()` also completes the job in that transaction."""

ADVICE_CLEANUP = """\
What helps: `finally` and `except` blocks run when an attempt is cancelled, and then the job runs again.
They may free what the attempt has taken; what the job is for belongs after its work, with
`ctx.idempotency_key`, so that a repetition is recognised."""

ADVICE_OVERLAP = """\
What helps: looking and then doing is not enough when two attempts overlap. Let whoever has the effect
refuse the second: by `ctx.idempotency_key` under a unique constraint, or by `ctx.epoch`, which is
higher in the later attempt, as in `UPDATE … WHERE epoch < :epoch`."""

ADVICE_LOST = """\
What helps: it was noted as done before it was done. Do it first, with `ctx.idempotency_key`, and note
it afterwards; or do both in one transaction."""

ADVICE_ENDED = """\
What helps: an attempt must put up with what an earlier one has left behind: "it is there already" is a
success. If it failed because a lock or a connection of the killed attempt lives on, end that in
`on_kill(world)`, as the end of a process does."""

ADVICE_OTHER = """\
What helps: nobody should be able to tell that there was an earlier attempt. A result that is to be the
same can be kept with what was done, under `ctx.idempotency_key`."""


def compare(cut: Cut, point: int, life: Life, undisturbed: Life) -> Finding | None:
    """What the cut did; None if nobody can tell that there was one."""
    twice: list[str] = []
    more: list[str] = []
    lost: list[str] = []
    for effect, now, before in _counts(life.effects, undisturbed.effects):
        if now > before > 0:
            twice.append(f"{now} × {effect!r}, which happens {_times(before)} when nothing is cut")
        elif now > before:
            more.append(f"{now} × {effect!r}, which does not happen when nothing is cut")
        elif now < before:
            lost.append(f"{now} × {effect!r}, which happens {_times(before)} when nothing is cut")
    check = [] if life.complaint is None else [f"check(world): {_said(life.complaint)}"]
    ended, result = _ends(life, undisturbed)
    found = {
        Harm.TWICE: twice,
        Harm.MORE: more,
        Harm.ENDED: ended,
        Harm.LOST: lost,
        Harm.CHECK: check,
        Harm.RESULT: result,
    }
    harms = [harm for harm, differences in found.items() if differences]
    if not harms:
        return None
    differences = [difference for harm in harms for difference in found[harm]]
    if len(differences) > MOST_DIFFERENCES:
        differences[MOST_DIFFERENCES:] = [f"and {len(differences) - MOST_DIFFERENCES} more differences"]
    return Finding(cut, point, undisturbed.steps, life.where, harms[0], tuple(differences), life.complaint)


def result_of(job: Job) -> object:
    return None if job.result is None else codec.decode_kept(job.result)


def _ends(life: Life, undisturbed: Life) -> tuple[list[str], list[str]]:
    if life.job.status is not undisturbed.job.status:
        why = f": {life.job.reason}" if life.job.reason else ""
        return [f"the job is {life.job.status}{why}"], []
    if life.job.result != undisturbed.job.result:
        was, now = result_of(undisturbed.job), result_of(life.job)
        return [], [f"the result is {now!r}, and {was!r} when nothing is cut"]
    return [], []


def _counts(effects: Sequence[object], undisturbed: Sequence[object]) -> list[tuple[object, int, int]]:
    """Each effect, and how often it is in either. Only `==` is asked for: effects may be unhashable."""
    if list(effects) == list(undisturbed):
        return []
    different: list[object] = []
    for effect in [*effects, *undisturbed]:
        if effect not in different:
            different.append(effect)
    return [(effect, list(effects).count(effect), list(undisturbed).count(effect)) for effect in different]


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
