"""Fills the disk under load or keeps the file locked, lets go, and counts what was lost: nothing.

    python -m tests.crash.shortages [--seconds 60] [--way full-disk|size-limit|foreign-lock ...]

See docs/outage-testing.md. Ends with 1 when anything was broken.
"""

import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.crash.audit import Audit, Kill, audit, read_promises, read_runs
from tests.crash.course import (
    DRAIN_SECONDS,
    SLOWEST_SECONDS,
    Course,
    Limits,
    check_course,
    check_handlers,
    run_each,
    weather,
)
from tests.crash.inquiry import Inquiry
from tests.crash.kill import Ground, say
from tests.crash.nodes import Node, start_nodes

DISK_BYTES = 32 * 1024 * 1024
TOP_UP_SECONDS = 0.5
"""How often the ballast takes what has become free meanwhile."""

HOLD = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
other.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
other.execute("ROLLBACK")
"""
"""Another program, with the standard library's SQLite."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The one service, and the file in which it keeps its jobs."""

    node: Node
    store: Path

    @property
    def pids(self) -> list[int]:
        """Hypercorn's first process, and the one that serves."""
        return [self.node.pid, *self.node.host.children()]


@dataclass(frozen=True, slots=True)
class Shortage:
    """One way in which the file cannot be written."""

    name: str
    act: Callable[[Scene, float], None]
    """Breaks it, waits for so many seconds, and returns when it works again."""
    reason: str
    """What clients and probes must be told."""
    own_disk: bool = False
    """The file lies on a small disk of its own; needs the right to mount one."""


def fill_disk(scene: Scene, seconds: float) -> None:
    ballast = scene.store.with_name("ballast")
    end = time.monotonic() + seconds
    with ballast.open("ab", buffering=0) as file:
        while (left := end - time.monotonic()) > 0:
            with suppress(OSError):  # it is full
                while file.write(bytes(4096)):
                    pass
            time.sleep(min(TOP_UP_SECONDS, left))
    ballast.unlink()


def limit_size(scene: Scene, seconds: float) -> None:
    """No file of the service may grow past the log's size: as with a quota, it gets an error instead."""
    size = scene.store.with_name(scene.store.name + "-wal").stat().st_size
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in scene.pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    time.sleep(seconds)
    for pid, limits in before.items():
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def hold_lock(scene: Scene, seconds: float) -> None:
    command = [sys.executable, "-c", HOLD, str(scene.store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        time.sleep(seconds)
        other.communicate()
    assert other.returncode == 0


SHORTAGES = [
    Shortage("full-disk", fill_disk, "the disk is full", own_disk=True),
    Shortage("size-limit", limit_size, "the disk cannot be read or written"),
    Shortage("foreign-lock", hold_lock, "another process keeps the database locked"),
]


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system in memory at this directory, which is really full when it is full."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def possible_shortages() -> list[Shortage]:
    """All that this machine can have: who may not mount has no full disk, but files that cannot grow."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with small_disk(Path(directory)):
                return SHORTAGES
        except (OSError, subprocess.CalledProcessError):
            return [shortage for shortage in SHORTAGES if not shortage.own_disk]


def run(
    shortage: Shortage, seconds: float, directory: Path, *, slowest_seconds: float = SLOWEST_SECONDS
) -> tuple[Course, Audit]:
    """The service on a disk of its own, and not the ledgers, which must go on being written."""
    disk = directory / "disk"
    disk.mkdir()
    if not shortage.own_disk:
        return run_on(disk, shortage, seconds, directory, slowest_seconds)
    with small_disk(disk):
        return run_on(disk, shortage, seconds, directory, slowest_seconds)


def run_on(
    disk: Path, shortage: Shortage, seconds: float, directory: Path, slowest_seconds: float
) -> tuple[Course, Audit]:
    """Load on the healthy service, the shortage, more load, the drain and the audit."""
    store = disk / "jobs.db"
    ground = Ground(directory, f"sqlite:///{store}")
    course = Course(Limits(is_total=True, reason=shortage.reason), 1)
    with start_nodes(ground, 1, "asyncio") as [node]:
        act = partial(shortage.act, Scene(node, store), seconds)
        weather(course, [node], ground, act, seed=shortage.name, slowest_seconds=slowest_seconds)
        if course.failures:
            return course, Audit(read_promises(ground.clients), read_runs(ground.handlers), [], [], [])
        with closing(Inquiry([node.port])) as inquiry:
            if not inquiry.wait_drained(DRAIN_SECONDS):
                course.failures.append(f"not drained within {DRAIN_SECONDS:.0f} s: {inquiry.counts()}")
        if code := node.stop():
            course.failures.append(f"ended with {code} when it was asked to stop\n{node.output[-3000:]}")
    outage = Kill(course.began_at, course.ended_at)
    result = audit(ground.clients, ground.handlers, store, [outage], late_seconds=float("inf"))
    course.failures += [*check_course(course, result.jobs), *check_handlers(result.runs, result.jobs)]
    return course, result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("python -m tests.crash.shortages", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each shortage lasts")
    names = [shortage.name for shortage in SHORTAGES]
    parser.add_argument("--way", nargs="+", choices=names, default=None)
    chosen = parser.parse_args(arguments)
    shortages = {shortage.name: shortage for shortage in possible_shortages()}
    impossible = [name for name in chosen.way or names if name not in shortages]
    if impossible:
        say(f"left out, for want of the right to mount a small disk: {', '.join(impossible)}")
    code = run_each(
        [name for name in chosen.way or names if name in shortages],
        "trioqueue-shortage-",
        lambda name, directory: run(shortages[name], chosen.seconds, directory),
    )
    return 1 if chosen.way and impossible else code


if __name__ == "__main__":
    sys.exit(main())
