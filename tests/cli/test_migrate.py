"""`trioqueue migrate`: what it prints, what it changes, and what it ends with."""

import subprocess
import sys
from pathlib import Path

import apsw
import pytest


def migrate(directory: Path, *options: str, store: str = "sqlite:///jobs.db") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "trioqueue", "migrate", *options],
        cwd=directory,
        env={"TRIOQUEUE_STORE": store},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_store_is_brought_to_the_newest_version_once(tmp_path: Path) -> None:
    done = "sqlite:///jobs.db has been migrated from version 0 to version 2\n"
    assert migrate(tmp_path) == (0, done, "")
    assert migrate(tmp_path) == (0, "sqlite:///jobs.db is up to date, at version 2\n", "")


def test_what_is_printed_is_a_script_that_does_it(tmp_path: Path) -> None:
    code, script, _ = migrate(tmp_path, "--print")
    assert code == 0
    assert script.startswith("-- sqlite:///jobs.db would be migrated from version 0 to version 2\n")
    assert list(tmp_path.iterdir()) == []

    connection = apsw.Connection(str(tmp_path / "jobs.db"))
    connection.execute(script).fetchall()
    connection.close()

    assert migrate(tmp_path, "--print") == (0, "-- sqlite:///jobs.db is up to date, at version 2\n", "")


@pytest.mark.parametrize(
    ("store", "code", "words"),
    [
        ("mysql://alice:secret@localhost/jobs", 78, "TRIOQUEUE_STORE='mysql://***@localhost/jobs'"),
        ("sqlite:///nowhere/jobs.db", 78, "does not exist"),
        ("postgresql://alice:secret@127.0.0.1:1/jobs", 70, "not available"),
    ],
)
def test_what_cannot_be_migrated_is_told_without_secrets(
    tmp_path: Path, store: str, code: int, words: str
) -> None:
    ended, output, errors = migrate(tmp_path, store=store)
    assert (ended, output) == (code, ""), errors
    assert words in errors
    assert "secret" not in errors
    assert "Traceback" not in errors


def test_memory_has_nothing_to_migrate(tmp_path: Path) -> None:
    assert migrate(tmp_path, store="memory:") == (0, "memory: is up to date, at version 0\n", "")
