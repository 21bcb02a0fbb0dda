"""Listens to events and writes one line for each that a person may want to read.

The flow itself contains no log lines. Repeated complaints about the store are thinned out.
"""

import logging
import sys
from typing import Any, assert_never

import structlog
import trio

from trioqueue.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    ClaimsReleased,
    Event,
    JobCancelled,
    JobEnqueued,
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

REPEAT_SECONDS = 60.0
"""The same complaint about the store is written at most this often."""

LOUD = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)


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


class Logs:
    """Writes events as log lines."""

    def __init__(self, log_format: str, level: str) -> None:
        configure(log_format, level)
        self._log = structlog.get_logger("trioqueue")
        self._is_debug = level == "debug"
        self._said_at: dict[str, float] = {}

    def notice(self, event: Event) -> None:
        """Write the event down if somebody wants to know."""
        match event:
            case JobEnqueued() | AttemptStarted():
                if self._is_debug:
                    self._log.debug(_words(event), job_id=event.job.id, type=event.job.type)
            case AttemptEnded():
                self._attempt_ended(event)
            case AttemptLost(job=job, worker=worker, outcome=outcome):
                self._log.warning(
                    "lease lost, outcome dropped", job_id=job.id, worker=worker, outcome=outcome
                )
            case JobCancelled(job_id=job_id, confirmed=confirmed):
                self._log.info("job cancelled" if confirmed else "job asked to stop", job_id=job_id)
            case ClaimsReleased(released=released):
                self._log.info("claims released", released=released)
            case JobsRescued(job_ids=job_ids, dead_ids=dead_ids):
                self._log.warning("jobs rescued from silent nodes", jobs=len(job_ids), first=job_ids[0])
                for job_id in dead_ids:
                    self._log.error("job is dead: too many nodes went silent with it", job_id=job_id)
            case JobsPruned(pruned=pruned):
                self._log.debug("jobs pruned", pruned=pruned)
            case LoopFailed(loop=loop, error=error):
                self._log.error("loop failed, starting it again", loop=loop, exception=error)
            case StoreFailed(call=call, reason=reason):
                if self._is_news(reason):
                    self._log.error("store not available, trying again", call=call, reason=reason)
            case StoreRecovered(call=call, after_seconds=seconds):
                if self._is_news("recovered"):
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
        if event.outcome in LOUD:
            write = self._log.warning
        elif event.outcome is AttemptOutcome.CANCELLED:
            write = self._log.info
        elif self._is_debug:
            write = self._log.debug
        else:
            return
        write(
            f"attempt {event.outcome}",
            job_id=event.job.id,
            type=event.job.type,
            attempt=event.job.attempt,
            worker=event.worker,
            status=event.status,
            seconds=round(event.seconds, 3),
            **({"exception": event.error} if event.error else {}),
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

    def _is_news(self, complaint: str) -> bool:
        now = trio.current_time()
        said_at = self._said_at.get(complaint)
        if said_at is not None and now - said_at < REPEAT_SECONDS:
            return False
        self._said_at[complaint] = now
        return True


def _words(event: Event) -> str:
    """JobEnqueued reads as "job enqueued"."""
    name = type(event).__name__
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
