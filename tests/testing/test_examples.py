"""The examples of docs/testing.md run where they lie, as a reader would run them."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

EXAMPLES = ROOT / "docs" / "examples"


@pytest.mark.parametrize("name", ["test_reminders.py", "test_year.py"])
def test_an_example_passes_where_it_lies(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(EXAMPLES), name]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
