"""What is tried, and what is seen of it: the user's handler and world, the kinds of cut, a life's account."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trioqueue.jobs.handlers import Handler
from trioqueue.jobs.job import Job, Json
from trioqueue.testing.cuts.where import Line

World = Any  # the user's own; only the user's functions look into it


class Cut(StrEnum):
    """What happens to an attempt."""

    KILLED = "killed"
    """Its process is gone: no line of it runs any more, no `finally` either."""
    DELIVERED_TWICE = "delivered twice"
    """The handler has returned, but its process dies before that was recorded."""
    LEASE_LOST = "lease lost"
    """Another node has the job. The attempt is cancelled where it waits, and cleans up."""
    OVERLAPPED = "overlapped"
    """It is paused while another attempt runs from beginning to end; then it goes on."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being tried, as the user has given it."""

    handler: Handler
    payload: Json
    world: Callable[[], World]
    effects: Callable[[World], object] | None
    check: Callable[[World], object] | None
    on_kill: Callable[[World], object] | None

    @property
    def path(self) -> str:
        """The file that the handler is in."""
        code = getattr(inspect.unwrap(self.handler.function), "__code__", None)
        return getattr(code, "co_filename", "")


@dataclass(slots=True)
class Life:
    """How it went: what the user would see afterwards, and where the cut fell."""

    job: Job
    error: str | None
    """What the ledger says about the last attempt."""
    effects: list[object]
    complaint: BaseException | None
    """What `check` raised."""
    steps: int
    ends: list[int]
    was_cut: bool
    where: tuple[Line, ...]


class GaveUp(Exception):
    """A life did not come to its end."""

    def __init__(self, why: str, where: tuple[Line, ...]) -> None:
        super().__init__(why)
        self.why = why
        self.where = where


async def enter(stack: AsyncExitStack, world: World) -> World:
    """The world itself; for a context manager, what that yields."""
    match world:
        case AbstractAsyncContextManager():
            return await stack.enter_async_context(world)
        case AbstractContextManager():
            return stack.enter_context(world)
        case _:
            return world


async def ask(function: Callable[[World], object], world: World) -> object:
    answer = function(world)
    return await answer if inspect.isawaitable(answer) else answer


async def complaint_of(check: Callable[[World], object] | None, world: World) -> BaseException | None:
    if check is None:
        return None
    try:
        answer = await ask(check, world)
    except Exception as error:  # most often an AssertionError
        return error
    return AssertionError("it returned False") if answer is False else None


def listed(effects: object) -> list[object]:
    """As they are now: whatever runs later must not change them."""
    if isinstance(effects, Mapping):
        effects = effects.items()
    if isinstance(effects, str | bytes) or not isinstance(effects, Iterable):
        raise TypeError(f"effects(world) must return what has happened, one item for each, not {effects!r}")
    items: list[object] = list(effects)
    try:
        return copy.deepcopy(items)
    except Exception:  # something in it cannot be copied
        return items
