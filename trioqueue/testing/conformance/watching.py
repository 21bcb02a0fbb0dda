"""Promises of counts, beat, nodes and dedicate, and of every call."""

from datetime import timedelta

import trio

from trioqueue.jobs.job import (
    Json,
    NodeId,
    Status,
)
from trioqueue.jobs.outcome import Cancelled, Completed, Failed
from trioqueue.store.protocol import (
    SILENT_SECONDS,
    NodeFacts,
    Running,
    Store,
)
from trioqueue.testing.conformance.tools import (
    ALICE,
    BOB,
    SECOND,
    Conformance,
    HandClock,
    claim,
    claim_one,
    enqueue,
    everything,
    new_job,
    settle,
)


class WatchConformance(Conformance):
    # counts

    async def test_the_counts_are_exact_after_every_kind_of_change(
        self, store: Store, clock: HandClock
    ) -> None:
        async def agree() -> None:
            counted = {(count.queue, count.type, count.status): count.jobs for count in await store.counts()}
            listed: dict[tuple[str, str, Status], int] = {}
            for job in await everything(store):
                key = (job.queue, job.type, job.status)
                listed[key] = listed.get(key, 0) + 1
            assert counted == listed

        await agree()
        await store.enqueue([new_job(queue=queue, type=type) for queue in "ab" for type in "xyz"])
        await agree()
        await enqueue(store, deadline_at=clock.now() + SECOND, run_at=clock.now() + SECOND)
        clock.advance(1)
        claims = await claim(store, lease_seconds=1)
        await agree()
        await settle(store, claims[0], Completed())
        await settle(store, claims[1], Failed("no"))
        await settle(store, claims[2], Failed("no", final=True))
        await store.cancel(claims[1].job.id)
        await store.release(claims[3:4])
        await agree()
        clock.advance(1)
        await store.rescue(limit=10)
        await agree()
        clock.advance(1)
        await store.prune(dict.fromkeys(Status, timedelta(0)), limit=2)
        await agree()

    # beat, nodes

    async def test_a_store_that_nobody_uses_has_no_nodes(self, store: Store) -> None:
        assert await store.nodes() == []

    async def test_a_node_is_there_since_its_first_beat_and_seen_at_its_last(
        self, store: Store, clock: HandClock
    ) -> None:
        started_at = clock.now()
        await store.beat(ALICE, facts=NodeFacts(workers=3, types=("mail", "noop")))
        clock.advance(5)
        await store.beat(ALICE, facts=NodeFacts(workers=4, types=("mail",)))
        seen_at = clock.now()
        clock.advance(2.5)
        (node,) = await store.nodes()
        assert (node.node, node.workers, node.types) == (ALICE, 4, ("mail",))
        assert (node.started_at, node.seen_at, node.silent_seconds) == (started_at, seen_at, 2.5)
        assert (node.stopping, node.running) == (False, [])

    async def test_a_beat_without_facts_keeps_those_said_before(self, store: Store) -> None:
        await store.beat(ALICE, facts=NodeFacts(workers=3, types=None))
        await store.beat(ALICE)
        (node,) = await store.nodes()
        assert (node.workers, node.types) == (3, None)

    async def test_a_node_that_has_said_nothing_has_no_workers_and_no_types(self, store: Store) -> None:
        await store.beat(ALICE)
        (node,) = await store.nodes()
        assert (node.workers, node.types) == (0, ())

    async def test_a_node_that_stops_is_said_to_for_good(self, store: Store) -> None:
        await store.beat(ALICE, facts=NodeFacts(workers=3, types=("mail",)))
        await store.beat(ALICE, stopping=True)
        await store.beat(ALICE)
        (node,) = await store.nodes()
        assert (node.stopping, node.workers) == (True, 3)

    async def test_nodes_stand_in_the_order_of_their_first_beat(self, store: Store, clock: HandClock) -> None:
        for names in ("dc", "ba"):
            for name in names:
                await store.beat(NodeId(name))
            clock.advance(1)
        await store.beat(NodeId("c"))
        assert [node.node for node in await store.nodes()] == ["c", "d", "a", "b"]

    async def test_a_node_shows_what_it_runs_in_the_order_of_the_claims(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.beat(ALICE)
        await store.beat(BOB)
        second, third = await enqueue(store, priority=2), await enqueue(store, priority=1)
        first = await enqueue(store, type="mail", queue="slow")
        await claim(store, types=frozenset({"mail"}), lease_seconds=30)
        claimed_at = clock.now()
        clock.advance(1)
        for _ in range(2):  # by priority: the third comes first
            await claim_one(store)
        await store.cancel(first.id)
        alice, bob = await store.nodes()
        assert bob.running == []
        assert [running.job_id for running in alice.running] == [first.id, second.id, third.id]
        assert alice.running[0] == Running(
            job_id=first.id,
            type="mail",
            queue="slow",
            epoch=1,
            started_at=claimed_at,
            lease_until=claimed_at + 30 * SECOND,
            cancel_requested=True,
        )
        assert not alice.running[1].cancel_requested

    async def test_a_node_that_never_beat_is_there_while_it_holds_jobs(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.enqueue([new_job(), new_job()])
        await claim_one(store, node=BOB)
        started_at = clock.now()
        clock.advance(2)
        last = await claim_one(store, node=BOB)
        clock.advance(3)
        (node,) = await store.nodes()
        assert (node.node, node.workers, node.types, node.stopping) == (BOB, 0, (), False)
        assert (node.started_at, node.seen_at) == (started_at, last.job.started_at)
        assert node.silent_seconds == 3
        for running in node.running:
            await store.cancel(running.job_id)
        clock.advance(30)
        await store.rescue(limit=10)
        assert await store.nodes() == []

    async def test_a_node_that_was_silent_for_long_is_forgotten(self, store: Store, clock: HandClock) -> None:
        await store.beat(ALICE, stopping=True)
        await store.beat(BOB)
        clock.advance(1)
        await store.beat(BOB)
        clock.advance(SILENT_SECONDS - 1)
        await store.rescue(limit=10)
        assert [node.node for node in await store.nodes()] == [ALICE, BOB]
        clock.advance(0.000_001)
        assert await store.rescue(limit=10) == []
        assert [node.node for node in await store.nodes()] == [BOB]
        await store.beat(ALICE)
        (_, alice) = await store.nodes()
        assert (alice.node, alice.started_at, alice.stopping) == (ALICE, clock.now(), False)

    async def test_a_silent_node_is_not_forgotten_while_it_holds_a_job(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.beat(ALICE, stopping=True)
        await store.enqueue([new_job(), new_job()])
        await claim(store, lease_seconds=SILENT_SECONDS)
        clock.advance(SILENT_SECONDS + 1)
        for left in (1, 0):
            (rescued,) = await store.rescue(limit=1)
            assert rescued.crash_count == 0  # it was told to stop, and that is still known
            assert len(await store.nodes()) == left

    # every call

    async def test_every_change_makes_the_version_one_higher(self, store: Store) -> None:
        job = await enqueue(store)
        versions = [job.version]

        async def note() -> None:
            versions.append((await store.get(job.id)).version)

        claimed = await claim_one(store)
        await note()
        await store.renew([claimed], lease_seconds=60)
        await note()
        await store.progress(claimed, Json(b"1"))
        await note()
        await store.cancel(job.id)
        await note()
        await settle(store, claimed, Cancelled())
        await note()
        assert versions == [1, 2, 3, 4, 5, 6]

    async def test_a_call_that_is_cancelled_before_it_began_changes_nothing(self, store: Store) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await enqueue(store)
        assert scope.cancelled_caught
        assert await everything(store) == []

    # dedicate

    async def test_demo_mode_may_not_have_a_store_that_real_handlers_have_served(self, store: Store) -> None:
        assert await store.dedicate(demo=True)
        assert await store.dedicate(demo=True)
        assert await store.dedicate(demo=False)
        assert not await store.dedicate(demo=True)
        assert await store.dedicate(demo=False)

    async def test_demo_mode_claims_nothing_any_more_once_real_handlers_have_come(
        self, store: Store, clock: HandClock
    ) -> None:
        await store.dedicate(demo=True)
        await enqueue(store)
        await enqueue(store, delay_seconds=1)
        await store.dedicate(demo=False)
        clock.advance(1)
        assert await claim(store, types=None) == []
        assert len(await claim(store, types=frozenset({"noop"}))) == 2

    async def test_a_store_says_where_it_is(self, store: Store) -> None:
        assert ":" in store.url
