"""The rules, the leases and the settling: every branch is taken by the tests that stand beside them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MEASURED = [
    "trioqueue/jobs/*",
    "trioqueue/runtime/attempt.py",
    "trioqueue/runtime/leases.py",
    "trioqueue/runtime/settler.py",
    "trioqueue/store/changes.py",
    "trioqueue/store/rows.py",
    "trioqueue/store/sqlite/claiming.py",
    "trioqueue/store/sqlite/operations.py",
    "trioqueue/store/sqlite/settling.py",
]
"""What decides whether a job is lost, run twice or settled wrongly."""

TESTS = [
    "tests/jobs",
    "tests/runtime/test_attempts.py",
    "tests/runtime/test_held.py",
    "tests/runtime/test_hostile_handlers.py",
    "tests/runtime/test_leases.py",
    "tests/runtime/test_renewals.py",
    "tests/runtime/test_retries.py",
    "tests/runtime/test_settler.py",
    "tests/runtime/test_transactions.py",
    "tests/store/test_conformance.py",
    "tests/store/test_doubt.py",
    "tests/store/test_neighbours.py",
]

QUICK = "not postgres and not testsqliteinthread and not sqlite] and not run_process"
"""Nodes run on the memory store; SQLite is driven by the conformance suite, in this thread."""


def coverage(command: str, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coverage", command, f"--data-file={data}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_every_branch_of_the_rules_the_leases_and_the_settling_is_taken(tmp_path: Path) -> None:
    data = tmp_path / "coverage"
    ran = coverage("run", data, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", QUICK, *TESTS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = coverage("report", data, f"--include={','.join(MEASURED)}", "--fail-under=100")
    assert report.returncode == 0, report.stdout + report.stderr
