"""The core takes time, randomness, threads and the store from outside, so that it can be simulated.

Reads the sources: what a simulation does not control, the core must not reach for.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "trioqueue"

OUTSIDE = {"spawner.py", "processes.py"}
"""In runtime/: the machine itself, which a simulation replaces as a whole."""

CORE = sorted(
    [
        *(ROOT / "jobs").glob("*.py"),
        *(path for path in (ROOT / "runtime").glob("*.py") if path.name not in OUTSIDE),
        *(ROOT / "service").rglob("*.py"),
        *(ROOT / name for name in ("health.py", "events.py")),
        *(
            ROOT / "store" / name
            for name in ("memory/store.py", "memory/shelf.py", "changes.py", "rows.py", "cursors.py")
        ),
        *(
            ROOT / "store" / "sqlite" / name
            for name in ("store.py", "writer.py", "operations.py", "claiming.py", "settling.py")
        ),
    ]
)

FORBIDDEN_MODULES = {
    *("asyncio", "ctypes", "multiprocessing", "os", "pathlib", "platform", "secrets", "select", "selectors"),
    *("shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "uuid"),
    *("concurrent", "fcntl", "io", "mmap", "urllib", "http"),
}

ALLOWED = {
    # Names only: of types in signatures, and of the file that SQLite itself opens.
    ("runtime/context.py", "os"): {"PathLike"},
    ("runtime/context.py", "subprocess"): {"CompletedProcess"},
    ("store/sqlite/store.py", "pathlib"): {"Path"},
    ("store/sqlite/writer.py", "pathlib"): {"Path"},
}

FORBIDDEN_CALLS = {
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "open", "input", "print"),
    *("trio.to_thread.run_sync", "trio.run_process", "trio.open_file", "trio.open_tcp_stream", "trio.Path"),
    *("trio.lowlevel.open_process", "trio.open_process", "trio.from_thread.run_sync", "id", "hash"),
}

RANDOM_NAMES = {"Random"}
"""A generator that somebody else has made and seeded; never the module's own functions."""


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_reaches_for_nothing_that_a_simulation_does_not_control(path: Path) -> None:
    tree = ast.parse(path.read_text())
    name = path.relative_to(ROOT).as_posix()
    assert list(problems(tree, name)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import random\nrandom.random()",
        "from random import choice",
        "from random import Random\nRandom(1)",
        "from uuid import uuid4",
        "import os\nos.urandom(8)",
        "from datetime import datetime\ndatetime.now()",
        "import trio\nasync def f(): await trio.to_thread.run_sync(print)",
        "open('x')",
        "import trio.socket",
        "from trio import to_thread",
        "def f(job): return hash(job)",
    ],
)
def test_every_way_around_is_found(source: str) -> None:
    assert list(problems(ast.parse(source), "runtime/context.py")) != []


def problems(tree: ast.Module, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    yield from forbidden_import(alias.name, tree, name)
            case ast.ImportFrom(module=str(module), names=aliases):
                yield from forbidden_from(module, {alias.name for alias in aliases}, name)
            case ast.Call(func=func) if dotted(func) in FORBIDDEN_CALLS | {"Random", "SystemRandom"}:
                yield f"line {node.lineno} calls {dotted(func)}"


def forbidden_import(module: str, tree: ast.Module, name: str) -> Iterator[str]:
    top = module.partition(".")[0]
    if top == "random" or module in ("trio.socket", "trio.to_thread"):
        yield f"imports {module}"
    if top in FORBIDDEN_MODULES:
        used = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        attributes = {text.split(".")[1] for text in used if text.startswith(f"{top}.")}
        if (name, top) not in ALLOWED or attributes - ALLOWED[name, top]:
            yield f"imports {module}"


def forbidden_from(module: str, names: set[str], name: str) -> Iterator[str]:
    top = module.partition(".")[0]
    if module == "random" and names - RANDOM_NAMES:
        yield f"imports {names - RANDOM_NAMES} from random"
    if module == "trio" and names & {"to_thread", "socket", "run_process", "open_file"}:
        yield f"imports {names} from trio"
    if top in FORBIDDEN_MODULES and names - ALLOWED.get((name, top), set()):
        yield f"imports from {module}"


def dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}"
        case _:
            return "?"
