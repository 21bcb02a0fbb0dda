"""The checks that keep the code as it is: format, lint, types, layers, exported names, first lines."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trioqueue

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trioqueue"
NOT_OURS = "ASYNC114,ASYNC124,ASYNC128,ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913"
CODE = ["trioqueue", "tests", "docs/examples"]


def check_command(*command: str) -> None:
    """The tool, as the environment that runs the tests has it, must say nothing."""
    program = Path(sys.executable).with_name(command[0])
    assert program.exists() or shutil.which(command[0]), f"{command[0]} is missing: pip install '.[test]'"
    path = str(program) if program.exists() else command[0]
    done = subprocess.run([path, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    check_command("ruff", "check", *CODE)


def test_the_format_is_ruffs() -> None:
    check_command("ruff", "format", "--check", *CODE)


def test_flake8_async_finds_nothing() -> None:
    # 114 and 128 want a list of startable functions and do not see task_status handed on; 124
    # would make routes sync, which Quart runs in threads; the 900s are opt-in, for libraries
    # whose every function is a checkpoint.
    files = [str(path) for path in sorted(PACKAGE.rglob("*.py"))]
    check_command("flake8-async", f"--disable={NOT_OURS}", *files)


@pytest.mark.timeout(600)
def test_mypy_is_strict_and_content() -> None:
    check_command("mypy")


def test_imports_point_down() -> None:
    check_command("lint-imports")


def test_the_exported_names_are_these() -> None:
    assert sorted(trioqueue.__all__) == ["Context", "Handlers", "Retry"]
    assert all(hasattr(trioqueue, name) for name in trioqueue.__all__)
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no first line"


def test_wall_time_has_one_source() -> None:
    """ruff bans the calls by name; this also finds aliases and `time` modules."""
    for path in PACKAGE.rglob("*.py"):
        if path.name == "clock.py" and path.parent == PACKAGE:
            continue
        text = path.read_text()
        assert "datetime.now(" not in text, path
        assert "time.time(" not in text, path
