"""What an attempt came to: a small union of records, matched in `lifecycle`."""

import traceback
from dataclasses import dataclass
from types import TracebackType

from trioqueue.jobs.backoff import DEFAULT_RETRY, Retry
from trioqueue.jobs.job import AttemptOutcome, Json

REASON_CHARACTERS = 500
DEEPEST_GROUP = 20
ERROR_CHARACTERS = 8_000
"""Longer error texts lose their middle: the first and the last lines say most."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned. `result` is its value, already in JSON."""

    result: Json | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised. `final` means that another attempt would end the same way."""

    error: str
    """The whole text, with the traceback, for the ledger."""
    final: bool = False
    summary: str | None = None
    """What it is in one line; None: the first line of `error` says it."""
    retry: Retry = DEFAULT_RETRY
    """How long the job waits, if attempts are left."""
    not_before_seconds: float = 0.0
    """It waits at least so long: the error asked for that."""

    @property
    def reason(self) -> str:
        """What it is in one line, for the job."""
        return self.summary or first_line(self.error)


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The attempt ran into the job's timeout or its deadline."""

    error: str
    retry: Retry = DEFAULT_RETRY


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody asked for the job to stop, and its whole subtree has ended."""


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The handler asked to run later."""

    seconds: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The node gave the job back, or had to leave it behind: it stops, or could not renew the lease."""

    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The node went silent and its lease expired. Nobody knows how far the attempt came."""

    node: str


Outcome = Completed | Failed | TimedOut | Cancelled | Snoozed | Released | Lost

NAMES: dict[type[Outcome], AttemptOutcome] = {
    Completed: AttemptOutcome.COMPLETED,
    Failed: AttemptOutcome.FAILED,
    TimedOut: AttemptOutcome.TIMED_OUT,
    Cancelled: AttemptOutcome.CANCELLED,
    Snoozed: AttemptOutcome.SNOOZED,
    Released: AttemptOutcome.RELEASED,
    Lost: AttemptOutcome.LOST,
}


def error_of(outcome: Outcome) -> str | None:
    """The text that the attempts ledger keeps of an outcome."""
    match outcome:
        case Failed(error=error) | TimedOut(error=error):
            return error
        case Snoozed(reason=reason):
            return reason
        case Released(why=why):
            return why
        case Lost(node=node):
            return f"node {node} went silent"
        case _:
            return None


def failed_from(error: BaseException) -> Failed:
    """The outcome of a handler that raised. Never raises itself, whatever the error is.

    A group that holds a single error is named by that error: nurseries wrap what users raise.
    """
    for _ in range(DEEPEST_GROUP):
        if not isinstance(error, BaseExceptionGroup) or len(error.exceptions) != 1:
            break
        error = error.exceptions[0]
    name = type(error).__name__
    try:
        text = "".join(traceback.format_exception(type(error), error, _from_handler(error.__traceback__)))
        reason = first_line(f"{name}: {error}")
    except Exception:  # an error whose own __str__ raises
        text = reason = f"{name} (its text could not be read)"
    return Failed(storable(text), summary=reason)


def _from_handler(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that lead to the handler: they are ours, and always the same."""
    inner = frames
    while inner is not None and "/trioqueue/runtime/" in inner.tb_frame.f_code.co_filename:
        inner = inner.tb_next
    return inner or frames


def first_line(text: str) -> str:
    """What fits beside a job in a list."""
    return storable(text.strip().partition("\n")[0].removesuffix(":")[:REASON_CHARACTERS])


def storable(text: str) -> str:
    """`text` as every store can keep it: no NUL, no lone surrogates, not too long."""
    text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) > ERROR_CHARACTERS:
        half = ERROR_CHARACTERS // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text
