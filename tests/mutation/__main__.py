"""How many small faults in the rules of a job and in the lease code do the tests notice?

    python -m tests.mutation [FILE ...]

mutmut makes copies of each function, each with one small fault (a number one higher, a condition
turned round, an argument left out), and runs the tests that call the function. A mutant that makes
a test fail, or run for far too long, is killed. Without FILEs, all that are listed below are
mutated. Prints the survivors as diffs, then the scores, and exits with 1 when fewer than nine of
ten mutants of a file are killed. docs/quality.md says how to read it.

Everything happens in a temporary directory: the working tree is only read.
"""
# ruff: noqa: T201 - it is a command

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutation.equivalent import EQUIVALENT

ROOT = Path(__file__).parents[2]
WANTED = 0.9
PROCESSES = 2
NEEDED = ("trioqueue", "tests", "docs", "README.md", "pyproject.toml")
"""What the tests read."""

TESTS = {
    "trioqueue/jobs/backoff.py": ("tests/jobs/test_backoff.py", "tests/jobs/test_lifecycle.py"),
    "trioqueue/jobs/lifecycle.py": ("tests/jobs/test_lifecycle.py",),
    "trioqueue/jobs/outcome.py": ("tests/jobs/test_outcome.py", "tests/jobs/test_lifecycle.py"),
    "trioqueue/runtime/leases.py": (
        "tests/runtime/test_held.py",
        "tests/runtime/test_renewals.py",
        "tests/runtime/test_leases.py",
    ),
    "trioqueue/runtime/settler.py": ("tests/runtime/test_settler.py",),
    "trioqueue/store/changes.py": ("tests/store/test_changes.py",),
    "trioqueue/store/sqlite/operations.py": (
        "tests/store/test_conformance.py",
        "tests/store/test_neighbours.py",
    ),
}
"""The files that are mutated, and the tests that must notice."""

SETTINGS = """
[tool.mutmut]
source_paths = ["trioqueue"]
only_mutate = {files}
also_copy = {needed}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-k", "not postgres and not testsqliteinthread"]
pytest_add_cli_args_test_selection = {tests}
# A mutant may take so many times as long as the tests that it concerns, and the constant.
timeout_multiplier = 5.0
timeout_constant = 2.0
use_git_change_detection = false
"""


@dataclass
class Score:
    """What became of the mutants of one file."""

    killed: int = 0
    by_time: int = 0
    """Those of the killed that never came to an end."""
    equivalent: int = 0
    survivors: list[str] = field(default_factory=list)
    """Each one's change, as a diff."""

    @property
    def share(self) -> float:
        counted = self.killed + len(self.survivors)
        return self.killed / counted if counted else 0.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="*", choices=[[], *TESTS], metavar="FILE")
    files = parser.parse_args(arguments).files or list(TESTS)
    scores: dict[str, Score] = {}
    for file in files:
        scores[file] = measure(file)
        for survivor in scores[file].survivors:
            print(survivor, flush=True)
    for file, score in scores.items():
        print(
            f"{file:38} {score.share:6.1%}: {score.killed} killed ({score.by_time} by time),"
            f" {len(score.survivors)} survived, {score.equivalent} equivalent"
        )
    return 0 if all(score.share >= WANTED for score in scores.values()) else 1


def measure(file: str) -> Score:
    """Mutate this file, run its tests, and count."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        directory = Path(name)
        copy_to(directory, file)
        mutmut(directory, "run", "--max-children", str(PROCESSES))
        return score_of(directory, file)


def copy_to(directory: Path, file: str) -> None:
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, directory / name)
    with (directory / "pyproject.toml").open("a") as settings:
        settings.write(SETTINGS.format(files=[file], tests=list(TESTS[file]), needed=list(NEEDED)))


def mutmut(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def score_of(directory: Path, file: str) -> Score:
    score = Score()
    module = file.removesuffix(".py").replace("/", ".")
    for name, status in re.findall(
        rf"^ *({re.escape(module)}\.\S+): (.+)$", mutmut(directory, "results", "--all", "true"), re.MULTILINE
    ):
        if status in ("killed", "timeout"):
            score.killed += 1
            score.by_time += status == "timeout"
            continue
        diff = mutmut(directory, "show", name)
        if (file, change_of(diff)) in EQUIVALENT:
            score.equivalent += 1
        else:
            score.survivors.append(diff)
    return score


def change_of(diff: str) -> str:
    """The lines that the mutant puts in, or else those that it takes out, as one line."""
    lines = diff.splitlines()
    for sign in "+-":
        changed = [line[1:].strip() for line in lines if line.startswith(sign) and line[:3] != sign * 3]
        if changed:
            return " ".join(changed)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
