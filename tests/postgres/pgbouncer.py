"""PgBouncer in transaction mode before a server, with what it does by default: it refuses `options`, for one.

with start_pgbouncer(server.port) as pgbouncer:
    url = pgbouncer.database_url("jobs")

It is a system's package. Only commands that say so need it; the tests in CI do not.
"""

import atexit
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.postgres.server import (
    START_SECONDS,
    STOP_SECONDS,
    Account,
    Reservation,
    find_account,
    make_directory,
    surroundings,
)

MISSING = "PgBouncer is not installed: apt-get install pgbouncer, or the package of your system"


@dataclass
class PgBouncer:
    """One PgBouncer. It keeps its port while it is stopped."""

    program: Path
    account: Account
    directory: Path
    reservation: Reservation
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def port(self) -> int:
        return self.reservation.port

    def database_url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def configure(self, server_port: int, settings: Mapping[str, str]) -> None:
        chosen = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            **settings,
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={server_port} user=postgres", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in chosen.items()]
        (self.directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Until it lets clients through to the server."""
        assert self.process is None, "it runs already"
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.program), str(self.directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **surroundings(self.directory, self.account),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._lets_through():
            assert time.monotonic() < deadline, f"not ready:\n{self.output()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """At once; every client is thrown out. Nothing happens when it is stopped already."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_SECONDS)
            self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
            self.process = None

    def output(self) -> str:
        """What it has written to its log so far."""
        return (self.directory / "log").read_text(errors="replace")

    def _lets_through(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"pgbouncer ended with {self.process.returncode} instead:\n{self.output()}")
        try:
            with closing(psycopg.connect(self.database_url("postgres"))) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def start_pgbouncer(server_port: int, *, settings: Mapping[str, str] | None = None) -> Iterator[PgBouncer]:
    """A new PgBouncer on a free port, until the block ends; then nothing is left of it."""
    program, account, directory = find_pgbouncer(), find_account(), make_directory()
    with closing(Reservation()) as reservation:
        pgbouncer = PgBouncer(program, account, directory, reservation)
        clean_up = atexit.register(destroy, pgbouncer)
        try:
            account.own(directory)
            pgbouncer.configure(server_port, settings or {})
            pgbouncer.start()
            yield pgbouncer
        finally:
            atexit.unregister(clean_up)
            destroy(pgbouncer)


def destroy(pgbouncer: PgBouncer) -> None:
    pgbouncer.kill()
    shutil.rmtree(pgbouncer.directory, ignore_errors=True)


def find_pgbouncer() -> Path:
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    assert found is not None, MISSING
    return Path(found)
