"""Runs one attempt of a handler as a worker would, and says what it came to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import trio

from trioqueue.clock import Clock
from trioqueue.errors import UnknownType
from trioqueue.events import Events
from trioqueue.health import Health
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handler, Handlers
from trioqueue.jobs.job import AttemptOutcome, Job, Json, NewJob, NodeId, Status, new_job_id
from trioqueue.jobs.lifecycle import after_attempt
from trioqueue.jobs.outcome import NAMES, Outcome, error_of
from trioqueue.runtime.attempt import run_attempt
from trioqueue.runtime.context import Context
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.spawner import MachineSpawner
from trioqueue.store.protocol import Store
from trioqueue.testing.endings import ENDINGS

NODE = NodeId("perform")
LEASE_SECONDS = 30.0

TypeOrHandler = str | Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """What one attempt came to, and what becomes of the job."""

    outcome: AttemptOutcome
    status: Status
    """What the job would be now: `pending` when there is another attempt."""
    next_in: float | None
    """Seconds until that attempt, without the up to a quarter more that is drawn by lot."""
    result: Any  # whatever JSON the handler returned
    error: str | None
    """The traceback, or why it was snoozed, or at which limit it was stopped."""
    reason: str | None
    """The same in one line, as the job shows it."""
    progress: Any  # whatever JSON the handler said last
    seconds: float
    """How long it took, on the test's clock."""


async def perform(
    registries: Sequence[Handlers],
    type: TypeOrHandler,
    payload: object,
    *,
    attempt: int,
    max_attempts: int | None,
    timeout_seconds: float | None,
    store: Store,
    clock: Clock,
    random: Random,
    max_result_bytes: int,
) -> Performed:
    """Run one attempt of a job that only `store` knows. The payload becomes JSON and back on the way.

    Raises `UnknownType` or `InvalidJob` as `enqueue` does, ValueError for an attempt that there cannot be.
    """
    handler = find(registries, type)
    if max_attempts is not None and not 1 <= max_attempts <= 1000:
        raise ValueError(f"max_attempts={max_attempts} is not from 1 to 1000")
    most = max_attempts or handler.max_attempts
    if not 1 <= attempt <= most:
        raise ValueError(f"attempt={attempt} is not from 1 to {most}, the job's max_attempts")
    if timeout_seconds is not None and timeout_seconds <= 0:
        raise ValueError(f"timeout_seconds={timeout_seconds} must be positive")
    text = codec.encode(payload)
    handler.parse(codec.decode_kept(text))
    id = new_job_id(clock.now(), random)
    new = NewJob(
        id=id,
        type=f"{handler.type} {id}",  # so that who claims gets this job, and none of another perform
        payload=text,
        max_attempts=most,
        timeout_seconds=timeout_seconds or handler.timeout_seconds,
    )
    await store.enqueue([new])
    async with trio.open_nursery() as nursery:
        health = Health()
        rest = Rest(health)
        leases = Leases(store, NODE, lease_seconds=LEASE_SECONDS, health=health, events=Events(), rest=rest)
        nursery.start_soon(leases.run)
        with rest.shared():
            performed = await _attempt(
                leases, new, handler, attempt, store=store, clock=clock, max_result_bytes=max_result_bytes
            )
        nursery.cancel_scope.cancel()
    return performed


async def _attempt(
    leases: Leases,
    new: NewJob,
    handler: Handler,
    attempt: int,
    *,
    store: Store,
    clock: Clock,
    max_result_bytes: int,
) -> Performed:
    asked_at = trio.current_time()
    types = frozenset({new.type})
    [claim] = await store.claim(node=NODE, types=types, limit=1, lease_seconds=leases.lease_seconds)
    job = msgspec.structs.replace(claim.job, type=handler.type, attempt=attempt)
    claim = msgspec.structs.replace(claim, job=job)
    leases.hold([claim], asked_at=asked_at)
    held = leases.begin(claim)
    assert held is not None
    spawner = MachineSpawner()
    context = Context(claim, held, 1, store, clock, spawner, max_result_bytes=max_result_bytes)
    outcome = await run_attempt(
        held,
        context,
        _only(handler),
        spawner=spawner,
        threads=trio.CapacityLimiter(1),
        max_result_bytes=max_result_bytes,
        let_through=ENDINGS,
    )
    leases.finish()
    leases.end(held)
    seconds = trio.current_time() - asked_at
    progress = (await store.get(claim.job.id)).progress
    return _performed(msgspec.structs.replace(claim.job, progress=progress), outcome, seconds)


def _performed(job: Job, outcome: Outcome, seconds: float) -> Performed:
    transition = after_attempt(job, outcome, 0.0)
    waits = transition.status is Status.PENDING
    return Performed(
        outcome=NAMES[type(outcome)],
        status=transition.status,
        next_in=(transition.wait_seconds or 0.0) if waits else None,
        result=decoded(transition.result),
        error=error_of(outcome),
        reason=transition.reason,
        progress=decoded(job.progress),
        seconds=seconds,
    )


def decoded(text: Json | None) -> Any:
    """The value of JSON that is kept."""
    return None if text is None else codec.decode_kept(text)


def find(registries: Sequence[Handlers], type: TypeOrHandler) -> Handler:
    """The handler of a type, or of a function, which need not have been registered.

    The first registry that has it wins. Raises `UnknownType` for a type that none has.
    """
    handlers = [registry.find(name) for registry in registries for name in registry.types]
    for handler in handlers:
        if type in (handler.type, handler.function):
            return handler
    if isinstance(type, str):
        raise UnknownType(type, sorted({handler.type for handler in handlers}))
    alone = Handlers()
    alone.handler(type.__name__)(type)
    return alone.find(type.__name__)


def _only(handler: Handler) -> Handlers:
    handlers = Handlers()
    handlers.handler(
        handler.type, timeout_seconds=handler.timeout_seconds, max_attempts=handler.max_attempts
    )(handler.function)
    return handlers
