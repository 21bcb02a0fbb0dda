"""The ways in which a database is not what it was: each breaks it, waits, and mends it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from tests.crash.course import Limits
from tests.postgres.pgbouncer import PgBouncer, start_pgbouncer
from tests.postgres.proxy import Proxy, start_proxy
from tests.postgres.server import Server, start_server

LATENCY_SECONDS = 0.25
"""In each direction: 500 ms for each round trip."""
RESET_SECONDS = 0.3
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


PARTIAL = Limits()
TOTAL = Limits(is_total=True)


@dataclass(frozen=True, slots=True)
class Scene:
    """What can be broken. The nodes reach the server through one of them."""

    server: Server
    proxy: Proxy
    pgbouncer: PgBouncer | None


Via = Literal["the server", "the proxy", "pgbouncer"]


@dataclass(frozen=True, slots=True)
class Outage:
    """One way in which a database is not what it was, and what must still be true."""

    name: str
    act: Callable[[Scene, float], None]
    """Breaks it, waits for so many seconds, and returns when it works again."""
    via: Via = "the server"
    limits: Limits = PARTIAL


def stop_cleanly(scene: Scene, seconds: float) -> None:
    scene.server.stop()
    time.sleep(seconds)
    scene.server.start()


def kill_postmaster(scene: Scene, seconds: float) -> None:
    scene.server.kill()
    time.sleep(seconds)
    scene.server.start()


def terminate_backends(scene: Scene, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        scene.server.psql(TERMINATE)
        time.sleep(1.0)


def reset_connections(scene: Scene, seconds: float) -> None:
    """Unlike a server that terminates, this loses answers to statements that were carried out."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        scene.proxy.reset_all()
        time.sleep(RESET_SECONDS)


def fall_silent(scene: Scene, seconds: float) -> None:
    scene.proxy.black_hole()
    time.sleep(seconds)
    scene.proxy.heal()


def slow_down(scene: Scene, seconds: float) -> None:
    scene.proxy.latency_seconds = LATENCY_SECONDS
    time.sleep(seconds)
    scene.proxy.heal()


def restart_pgbouncer(scene: Scene, seconds: float) -> None:
    """The load runs through it all the time; in the middle it is gone for a second."""
    assert scene.pgbouncer is not None
    time.sleep(seconds / 2)
    scene.pgbouncer.stop()
    time.sleep(1.0)
    scene.pgbouncer.start()
    time.sleep(seconds / 2)


OUTAGES = [
    Outage("stop", stop_cleanly, limits=TOTAL),
    Outage("kill", kill_postmaster, limits=TOTAL),
    Outage("terminate", terminate_backends),
    Outage("reset", reset_connections, via="the proxy"),
    Outage("black-hole", fall_silent, via="the proxy", limits=Limits(recovery_seconds=15.0, is_total=True)),
    Outage("latency", slow_down, via="the proxy"),
    Outage("pgbouncer", restart_pgbouncer, via="pgbouncer"),
]


def open_scene(stack: ExitStack, outage: Outage) -> tuple[Scene, str]:
    """The server, what may stand before it, and the URL by which the nodes go there."""
    server = stack.enter_context(start_server())
    server.create_database("jobs")
    proxy = stack.enter_context(start_proxy(server.port))
    match outage.via:
        case "the server":
            return Scene(server, proxy, None), server.database_url("jobs")
        case "the proxy":
            return Scene(server, proxy, None), f"postgresql://postgres@127.0.0.1:{proxy.port}/jobs"
        case "pgbouncer":
            pgbouncer = stack.enter_context(start_pgbouncer(server.port))
            return Scene(server, proxy, pgbouncer), pgbouncer.database_url("jobs")
