"""What every test may ask for."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.postgres.server import Server, start_server

pytest.register_assert_rewrite("trioqueue.testing.conformance")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def docs() -> str:
    """Every page of the documentation, and the README, as one text."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text() for page in pages)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own environment must not decide what a test sees."""
    for name in list(os.environ):
        if name.startswith(("TRIOQUEUE_", "PG")) or name in ("PORT", "WORKER_COUNT", "JOB_QUEUE_CAPACITY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One for all tests, started when the first one asks. Its commits survive all but the machine's end."""
    with start_server(fsync=False, settings={"synchronous_commit": "on", "max_connections": "200"}) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Server) -> str:
    return postgres_server.url


@pytest.fixture
def postgres_database(postgres_server: Server, postgres_names: Iterator[str]) -> Iterator[str]:
    """The URL of an empty database, which is dropped afterwards, whoever is still connected."""
    name = next(postgres_names)
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def postgres_names() -> Iterator[str]:
    return (f"test_{number}" for number in count(1))
