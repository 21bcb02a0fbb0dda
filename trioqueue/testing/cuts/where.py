"""Where a suspended task waits: the lines of its user's code, the outermost first."""

import linecache
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import trio

import trioqueue

PLATFORM = tuple(
    f"{Path(path).resolve()}/"
    for path in [
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(trio.__file__).parent),
        str(Path(trioqueue.__file__).parent),
    ]
)
"""Whatever lies below these was not written by the user."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the user's code at which a task waits."""

    path: str
    number: int
    function: str

    @property
    def text(self) -> str:
        return linecache.getline(self.path, self.number).strip()

    @property
    def place(self) -> str:
        """File and line, the file as seen from the working directory."""
        path = Path(self.path)
        return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{self.number}"

    def __str__(self) -> str:
        return f"{self.place} in {self.function}\n    {self.text}"


def lines_of_task(task: trio.lowlevel.Task, *, handler_path: str) -> tuple[Line, ...]:
    """Where `task` waits, in code of the user's."""
    return _lines(_frames_of(task.coro), handler_path)


def lines_of_thread(ident: int, *, handler_path: str) -> tuple[Line, ...]:
    """Where a thread waits, in code of the user's."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(ident)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return _lines(reversed(frames), handler_path)


def _lines(frames: Iterable[FrameType], handler_path: str) -> tuple[Line, ...]:
    return tuple(
        Line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        for frame in frames
        if frame.f_code.co_filename == handler_path or not _is_platform(frame.f_code.co_filename)
    )


@cache
def _is_platform(path: str) -> bool:
    return path.startswith("<") or str(Path(path).resolve()).startswith(PLATFORM)


def _frames_of(awaited: Any) -> Iterator[FrameType]:  # coroutines, generators, and what C awaits
    """From the coroutine to what it awaits, and so on. An asynchronous generator hides what is below it."""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            return
