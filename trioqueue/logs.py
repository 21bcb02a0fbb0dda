"""Listens to events and writes one line for each that a person may want to read.

The flow itself contains no log lines. What an outage of the store can say a thousand times, once for
each job, is thinned out: however much work there is, an outage costs few lines.
"""

import logging
import sys
from collections import deque
from typing import Any, assert_never

import structlog
import trio

from trioqueue.errors import StoreUnavailable
from trioqueue.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    ClaimsReleased,
    Event,
    JobCancelled,
    JobEnqueued,
    JobRedriven,
    JobsExpired,
    JobsPruned,
    JobsRescued,
    LoopFailed,
    NodeDraining,
    NodeStarted,
    NodeStopped,
    StoreFailed,
    StoreRecovered,
)
from trioqueue.jobs.job import AttemptOutcome

MINUTE = 60.0
LINES_A_MINUTE = 10
"""Of each kind of line that an outage repeats. The next line says how many were left out."""

IDS_SHOWN = 10

LOUD = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)

OUTAGE = f"{StoreUnavailable.__name__}: "
"""How the reason of a job begins whose handler was let down by the store."""


def configure(log_format: str, level: str) -> None:
    """Send structured lines to stderr: for a person at a terminal, as JSON otherwise."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderer: Any = (  # structlog's renderers share no type
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class Thinned:
    """Lets so many lines of one kind through in a minute, and counts the others."""

    def __init__(self, most: int = LINES_A_MINUTE) -> None:
        self._most = most
        self._said_at: deque[float] = deque()
        self._left_out = 0

    def facts(self) -> dict[str, object] | None:
        """What to add to the line that wants to be written now; None when it is one too many."""
        now = trio.current_time()
        while self._said_at and now - self._said_at[0] >= MINUTE:
            self._said_at.popleft()
        if len(self._said_at) >= self._most:
            self._left_out += 1
            return None
        self._said_at.append(now)
        left_out, self._left_out = self._left_out, 0
        return {"left_out_before": left_out} if left_out else {}


class Logs:
    """Writes events as log lines."""

    def __init__(self, log_format: str, level: str) -> None:
        configure(log_format, level)
        self._log = structlog.get_logger("trioqueue")
        self._is_debug = level == "debug"
        self._kinds: dict[str, Thinned] = {}
        self._reasons: dict[str, Thinned] = {}

    def notice(self, event: Event) -> None:
        """Write the event down if somebody wants to know."""
        match event:
            case JobEnqueued() | AttemptStarted():
                if self._is_debug:
                    self._log.debug(_words(event), job_id=event.job.id, type=event.job.type)
            case AttemptEnded():
                self._attempt_ended(event)
            case AttemptLost(job=job, worker=worker, outcome=outcome):
                if (more := self._thinned("lease lost")) is not None:
                    self._log.warning(
                        "lease lost, outcome dropped", job_id=job.id, worker=worker, outcome=outcome, **more
                    )
            case JobCancelled(job=job, confirmed=confirmed):
                self._log.info("job cancelled" if confirmed else "job asked to stop", job_id=job.id)
            case JobRedriven(job=job):
                if (more := self._thinned("job redriven")) is not None:
                    self._log.info("job redriven", job_id=job.id, type=job.type, **more)
            case ClaimsReleased(released=released):
                if (more := self._thinned("claims released")) is not None:
                    self._log.info("claims released", released=released, **more)
            case JobsRescued():
                self._jobs_rescued(event)
            case JobsExpired(job_ids=job_ids):
                if (more := self._thinned("jobs expired")) is not None:
                    self._log.warning(
                        "jobs are dead: their deadline has come",
                        jobs=len(job_ids),
                        job_ids=job_ids[:IDS_SHOWN],
                        **more,
                    )
            case JobsPruned(pruned=pruned):
                self._log.debug("jobs pruned", pruned=pruned)
            case LoopFailed(loop=loop, error=error):
                if (more := self._thinned("loop failed")) is not None:
                    is_new = self._thinned("traceback of a loop", most=2) is not None
                    told = {"exception": error} if is_new else {"error": error.strip().splitlines()[-1]}
                    self._log.error("loop failed, starting it again", loop=loop, **told, **more)
            case StoreFailed(call=call, reason=reason):
                if (more := self._store_failed(reason)) is not None:
                    self._log.error("store not available, trying again", call=call, reason=reason, **more)
            case StoreRecovered(call=call, after_seconds=seconds):
                if self._thinned("recovered", most=1) is not None:
                    self._log.info("store available again", call=call, after_seconds=round(seconds, 1))
            case NodeStarted():
                self._node_started(event)
            case NodeDraining(running=running, grace_seconds=grace_seconds):
                self._log.info(
                    f"node draining: waits {grace_seconds:g} s at most for {running} running attempts",
                    running=running,
                    grace_seconds=grace_seconds,
                )
            case NodeStopped(leases_left=leases_left):
                self._log.info("node stopped", leases_left=leases_left)
            case _:
                assert_never(event)

    def _attempt_ended(self, event: AttemptEnded) -> None:
        facts = {
            "job_id": event.job.id,
            "type": event.job.type,
            "attempt": event.job.attempt,
            "worker": event.worker,
            "status": event.status,
            "seconds": round(event.seconds, 3),
        }
        if event.outcome in LOUD and (event.job.reason or "").startswith(OUTAGE):
            if (more := self._thinned("attempt failed by the store")) is not None:
                self._log.warning("attempt failed", **facts, reason=event.job.reason, **more)
            return
        if event.error:
            facts["exception"] = event.error
        if event.outcome in LOUD:
            self._log.warning(f"attempt {event.outcome}", **facts)
        elif event.outcome is AttemptOutcome.CANCELLED:
            self._log.info(f"attempt {event.outcome}", **facts)
        elif self._is_debug:
            self._log.debug(f"attempt {event.outcome}", **facts)

    def _jobs_rescued(self, event: JobsRescued) -> None:
        if (more := self._thinned("jobs rescued")) is not None:
            self._log.warning(
                "jobs rescued from silent nodes", jobs=len(event.job_ids), first=event.job_ids[0], **more
            )
        if event.dead_ids and (more := self._thinned("jobs dead")) is not None:
            self._log.error(
                "jobs are dead: too many nodes went silent with them",
                jobs=len(event.dead_ids),
                job_ids=event.dead_ids[:IDS_SHOWN],
                **more,
            )
        if event.cancelled_ids and (more := self._thinned("jobs cancelled")) is not None:
            self._log.info(
                "jobs cancelled: they had been asked to stop on nodes that went silent",
                jobs=len(event.cancelled_ids),
                job_ids=event.cancelled_ids[:IDS_SHOWN],
                **more,
            )

    def _node_started(self, event: NodeStarted) -> None:
        for warning in event.warnings:
            self._log.warning(warning)
        self._log.info(
            "node started",
            node=event.node,
            store=event.store,
            workers=event.workers,
            types="any" if event.demo else event.types,
        )

    def _store_failed(self, reason: str) -> dict[str, object] | None:
        """Each reason once a minute; and not many of them, should every one be worded in its own way."""
        if len(self._reasons) > 10 * LINES_A_MINUTE:
            self._reasons.clear()
        if self._reasons.setdefault(reason, Thinned(1)).facts() is None:
            return None
        return self._thinned("store failed")

    def _thinned(self, kind: str, *, most: int = LINES_A_MINUTE) -> dict[str, object] | None:
        return self._kinds.setdefault(kind, Thinned(most)).facts()


def _words(event: Event) -> str:
    """JobEnqueued reads as "job enqueued"."""
    name = type(event).__name__
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
