"""The site under a host that owns nothing: an ASGI server inside somebody's program."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from tests.web.fake_site import FakeNode
from trioqueue.web.asgi import Message
from trioqueue.web.site import Site


class Server:
    """As much of an ASGI server as a lifespan needs."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.stop = trio.Event()
        self._is_first = True

    async def receive(self) -> Message:
        if self._is_first:
            self._is_first = False
            return {"type": "lifespan.startup"}
        await self.stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        self.sent.append(message["type"])

    async def run(self, site: Site) -> None:
        await site({"type": "lifespan"}, self.receive, self.send)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda job: monkeypatch.setenv("FAKE_JOB", job)


async def test_the_lifespan_runs_the_node(autojump_clock: MockClock, fake: Callable[[str], None]) -> None:
    fake("short")
    site, server = Site(make_node=FakeNode), Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, site)
        await trio.sleep(10)
        node = site.node
        assert server.sent == ["lifespan.startup.complete"]
        server.stop.set()
        await node.stopped.wait()
        assert node.draining.is_set()
    assert server.sent[1:] == ["lifespan.shutdown.complete"]
    assert not site.is_hosted


@pytest.mark.parametrize("job", ["badconfig", "nostore"])
async def test_a_node_that_cannot_start_fails_the_startup(
    autojump_clock: MockClock, fake: Callable[[str], None], job: str
) -> None:
    fake(job)
    server = Server()
    await server.run(Site(make_node=FakeNode))
    assert server.sent == ["lifespan.startup.failed"]


async def test_a_node_that_breaks_fails_the_server(
    autojump_clock: MockClock, fake: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    fake("crash")
    server = Server()
    await server.run(Site(make_node=FakeNode))
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert "the pretended bug" in caplog.text


async def test_an_unknown_hypercorn_fails_the_startup(
    autojump_clock: MockClock, fake: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("idle")
    monkeypatch.setattr("trioqueue.web.guard.version", lambda package: "0.19.0")
    hosted, alone = Server(), Server()
    site = Site(make_node=FakeNode)
    await alone.run(site)
    with site.hosting(FakeNode()):
        await hosted.run(site)
    assert alone.sent == hosted.sent == ["lifespan.startup.failed"]


async def test_a_hosted_site_makes_no_node(autojump_clock: MockClock) -> None:
    def make_node() -> FakeNode:
        raise AssertionError("there is one already")

    site, server = Site(make_node=make_node), Server()
    server.stop.set()
    with site.hosting(FakeNode()):
        await server.run(site)
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
