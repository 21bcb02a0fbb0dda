"""A node on SQLite whose writes break off although they were committed: jobs cost nothing, outcomes stay."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from tests.runtime.conftest import NodeUnderTest
from trioqueue import Context, Handlers
from trioqueue.clock import current_clock
from trioqueue.config import load_settings
from trioqueue.events import AttemptEnded, AttemptLost, JobsRescued
from trioqueue.node import Node
from trioqueue.store.sqlite.store import SqliteStore, open_sqlite


class Breaks:
    """Each write that stands in `names` breaks off once, after its commit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.names = set(names)
        self._armed = False
        for name in names:
            monkeypatch.setattr(SqliteStore, name, self._arming(name, getattr(SqliteStore, name)))

    def _arming(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def armed(store: SqliteStore, *args: Any, **options: Any) -> Any:
            if name in self.names:
                self.names.remove(name)
                self._armed = True
            return await method(store, *args, **options)

        return armed

    async def run_sync(self, function: Callable[[], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        answer = function()
        if self._armed:
            self._armed = False
            raise OSError("the cable is loose")
        return answer


@pytest.mark.parametrize("names", [["enqueue"], ["claim"], ["settle"], ["enqueue", "claim", "settle"]])
async def test_a_write_whose_answer_is_lost_costs_a_job_nothing(
    names: list[str],
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    handlers = Handlers()
    runs: list[int] = []

    @handlers.handler("work")
    async def work(ctx: Context) -> None:
        runs.append(ctx.epoch)
        await trio.sleep(1)

    breaks = Breaks(monkeypatch, *names)
    node = Node(
        load_settings(store="memory:", log_level="error"),
        handlers,
        random=Random(1),
        open_store=lambda node: open_sqlite(
            tmp_path / "jobs.db",
            url="sqlite",
            clock=current_clock(),
            random=Random(1),
            node=node.id,
            run_sync=breaks.run_sync,
            flushed=False,
        ),
    )
    test = NodeUnderTest(node)
    await nursery.start(node.run)
    job = await test.finished(await test.enqueue("work"))
    await trio.sleep(1)  # until the node knows it, too

    assert breaks.names == set()
    assert len(runs) == 1
    assert (job.status, job.crash_count) == ("completed", 0)
    assert await test.outcomes(job) == ["completed"]
    assert len(test.seen(AttemptEnded)) == 1
    assert test.seen(AttemptLost) == []
    assert test.seen(JobsRescued) == []
    assert trio.current_time() < 30  # no lease had to end
    node.stop()
    await node.stopped.wait()
