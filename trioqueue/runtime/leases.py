"""What this node holds: every claim from the moment it is made until it is settled or released.

A lease is a deadline. Each held claim knows when its lease ends on this node's own monotonic
clock, counted from before the store was asked; the attempt's cancel scope ends a margin earlier,
so that a job stops itself before a second copy may start. Every renewal moves that deadline.
"""

import math
from collections.abc import Iterable
from enum import Enum, auto
from typing import NamedTuple, Never

import trio

from trioqueue.errors import StoreUnavailable
from trioqueue.events import ClaimsReleased, Events
from trioqueue.health import Health
from trioqueue.jobs.job import Claim, Job, JobId, NodeId
from trioqueue.jobs.outcome import Released
from trioqueue.runtime.rest import Rest
from trioqueue.runtime.wakeup import Wakeup
from trioqueue.store.protocol import Settlement, Store

MARGIN = 0.2
"""The part of a lease that is kept for stopping: unwinding, a slow store, a clock that runs fast."""

RENEWALS = 3
"""Renewals in the time of one lease; one may fail without harm."""

AGAIN_SECONDS = 0.5
"""The pause before renewing is tried again: there is a margin to win."""

LONGEST_WAIT_SECONDS = 10.0
"""Renew at least this often, so that a request to cancel whose hint was lost is seen soon."""


class Cause(Enum):
    """Why the node itself cancelled an attempt."""

    CANCEL = auto()
    """Somebody asked for the job to stop."""
    STOP = auto()
    """The node stops and the grace period is over."""
    LOST = auto()
    """The store says that the lease is no longer ours."""


class Limit(NamedTuple):
    """The job's own end of an attempt, in Trio time, and how to say that it was reached."""

    at: float
    words: str


class Held:
    """One claim in hand, and, once a worker has begun it, the scope that its handler runs in."""

    __slots__ = ("begun", "cause", "claim", "held_at", "limit", "scope", "settled", "stop_at")

    def __init__(self, claim: Claim, held_at: float, stop_at: float) -> None:
        self.claim = claim
        self.held_at = held_at
        """Trio time before the store was asked for the claim."""
        self.stop_at = stop_at
        """Trio time at which the attempt must have stopped unless the lease is renewed."""
        self.limit = Limit(math.inf, "")
        self.begun = False
        """A worker has it: it can no longer be given back untouched."""
        self.scope: trio.CancelScope | None = None
        self.cause: Cause | None = None
        self.settled: Job | None = None
        """The job once the handler's own transaction has completed it: nothing is left to settle or lose."""

    def begin(self, scope: trio.CancelScope, limit: Limit) -> None:
        """The handler runs in `scope`; cancelled at once if somebody asked for that while it waited."""
        self.scope = scope
        self.limit = limit
        scope.deadline = min(limit.at, self.stop_at)
        if self.cause is not None:
            scope.cancel()

    def extend(self, stop_at: float) -> None:
        self.stop_at = stop_at
        if self.scope is not None:
            self.scope.deadline = min(self.limit.at, stop_at)

    def settle(self, job: Job) -> None:
        """The handler's own transaction has completed the job; from here on only its limit ends it."""
        self.settled = job
        self.extend(math.inf)

    def cancel(self, cause: Cause) -> None:
        """Cancel the handler's subtree. The first cause stays."""
        if self.cause is None:
            self.cause = cause
        if self.scope is not None:
            self.scope.cancel()


class Leases:
    """The node's claims in hand; renews them all in one write, three times a lease."""

    def __init__(
        self,
        store: Store,
        node: NodeId,
        *,
        lease_seconds: float,
        health: Health,
        events: Events,
        rest: Rest,
    ) -> None:
        self.lease_seconds = lease_seconds
        self.ended = Wakeup()
        """Rings when an attempt has ended, or a claim was given back: there may be room for another."""
        self._store = store
        self._node = node
        self._health = health
        self._events = events
        self._rest = rest
        self._held: dict[tuple[JobId, int], Held] = {}
        """By job and epoch: after a pause a node may hold a job anew while an older attempt unwinds."""
        self._running = 0
        self._settling = 0
        self._finished = 0
        self._renew_now = Wakeup()
        self._unreleased: list[Claim] = []
        """Claims that no worker gets any more, and that the store does not know to be free yet."""

    def __len__(self) -> int:
        settled = sum(held.settled is not None for held in self._held.values())
        return len(self._held) - settled + len(self._unreleased)

    def __repr__(self) -> str:
        return f"<Leases {self.waiting} waiting, {self._running} running, {self._settling} settling>"

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        """Claims that no worker has begun."""
        return len(self._held) - self._running - self._settling

    @property
    def settling(self) -> int:
        """Attempts that have ended and whose outcome is not recorded yet."""
        return self._settling

    @property
    def finished(self) -> int:
        """Attempts that have ended so far; the dispatcher measures its pace by it."""
        return self._finished

    def stop_at(self, asked_at: float) -> float:
        """When an attempt must have stopped whose lease was asked for at `asked_at`."""
        return asked_at + self.lease_seconds * (1 - MARGIN)

    def hold(self, claims: Iterable[Claim], *, asked_at: float) -> None:
        """Take these claims in hand; `asked_at` is the Trio time before the store was asked."""
        stop_at = self.stop_at(asked_at)
        for claim in claims:
            self._held[claim.job.id, claim.epoch] = Held(claim, asked_at, stop_at)
            if older := self._held.get((claim.job.id, claim.epoch - 1)):
                older.cancel(Cause.LOST)
        self._rest.stir()

    def begin(self, claim: Claim) -> Held | None:
        """A worker begins this claim; None when the node has given it back or lost it meanwhile.

        Or when it can no longer trust its lease: after a pause of the whole process, what waited in
        the channel may run elsewhere by now. The store knows, and gives it back if it does not.
        """
        held = self._held.get((claim.job.id, claim.epoch))
        if held is None:
            return None
        if trio.current_time() >= held.stop_at:
            self._forget(held)
            self._unreleased.append(claim)
            self._renew_now.ring()
            return None
        held.begun = True
        self._running += 1
        return held

    def finish(self) -> None:
        """A worker's attempt has ended; its outcome is being recorded, and the worker is free."""
        self._running -= 1
        self._settling += 1
        self._finished += 1
        self.ended.ring()

    def end(self, held: Held) -> None:
        """The outcome is recorded, or dropped because the lease was lost: the claim leaves our hands."""
        self._settling -= 1
        self._forget(held)
        self.ended.ring()  # whoever waits because outcomes piled up can go on

    def look_for_cancels(self) -> None:
        """Somebody may have asked for a job to stop: renewing tells."""
        self._renew_now.ring()

    def cancel_all(self, cause: Cause) -> None:
        """Cancel every attempt that runs."""
        for held in list(self._held.values()):
            if held.scope is not None:
                held.cancel(cause)

    async def run(self) -> Never:
        """Renew, for ever."""
        interval = min(self.lease_seconds / RENEWALS, LONGEST_WAIT_SECONDS)
        wait = interval
        while True:
            self._health.turn("leases")
            due_in = wait if self._held or self._unreleased else None
            await self._rest.wait("leases", wait, due_in=due_in, until=self._renew_now.wait)
            try:
                wait = interval if await self.renew() else min(interval, AGAIN_SECONDS)
            except StoreUnavailable as error:
                # The scopes' deadlines go on meanwhile; try often, there is a margin to win.
                self._health.store_failed(error.reason)
                wait = min(interval, AGAIN_SECONDS)

    async def renew(self) -> bool:
        """Renew every claim in hand; stop those that are lost or were asked to stop.

        False when some could not be renewed now, though they are not lost.
        """
        await self._release_again()
        held = [held for held in self._held.values() if held.cause is not Cause.LOST and held.settled is None]
        if not held:
            return True
        asked_at = trio.current_time()
        renewals = await self._store.renew([item.claim for item in held], lease_seconds=self.lease_seconds)
        self._health.store_written()
        stop_at = self.stop_at(asked_at)
        for item, renewal in zip(held, renewals, strict=True):
            if renewal.busy:
                continue
            if not renewal.renewed:
                self._lose(item)
            elif renewal.cancel_requested:
                item.extend(stop_at)
                item.cancel(Cause.CANCEL)
            else:
                item.extend(stop_at)
        return not any(renewal.busy for renewal in renewals)

    def _lose(self, held: Held) -> None:
        """The fence has moved on. A claim that is just being settled is not lost, only gone."""
        if held.settled is not None or (held.claim.job.id, held.claim.epoch) not in self._held:
            return
        if not held.begun:
            self._forget(held)
            self.ended.ring()
        else:
            held.cancel(Cause.LOST)

    async def release_waiting(self, *, older_than: float = 0.0) -> None:
        """Give back the claims that no worker has begun; they cost no attempt and start elsewhere.

        Only those that have waited for `older_than` seconds. While the store cannot be reached they
        stay ours, but no worker gets them, and they are given back when it answers again.
        """
        before = trio.current_time() - older_than
        waiting = [held for held in self._held.values() if not held.begun and held.held_at <= before]
        if not waiting:
            return
        for held in waiting:
            self._forget(held)
        self.ended.ring()
        claims = [held.claim for held in waiting]
        try:
            released = await self._store.release(claims)
        except StoreUnavailable as error:
            self._health.store_failed(error.reason)
            self._unreleased += claims
            return
        self._events.publish(ClaimsReleased(node=self._node, released=released))

    async def give_back(self) -> None:
        """Release whatever is still in hand. Only for when every handler has ended, and nothing runs."""
        held = [item for item in self._held.values() if item.settled is None]
        if held:
            await self._store.settle([Settlement(item.claim, Released("the node stopped")) for item in held])
        self._held.clear()
        await self._release_again()

    async def _release_again(self) -> None:
        """Give back what could not be given back before, if its lease is still ours."""
        claims = list(self._unreleased)
        if claims:
            await self._store.release(claims)
            del self._unreleased[: len(claims)]  # others may have come meanwhile

    def _forget(self, held: Held) -> None:
        self._held.pop((held.claim.job.id, held.claim.epoch), None)
