"""The service that is soaked: as people write one, with a task more that counts the tasks.

Its handlers are those of the crash tests, and one that leaks.
"""

import asyncio
import os
import random
import threading
from pathlib import Path

import trio

from tests.crash.handlers import finish, handlers, write
from trioqueue import Context
from trioqueue.app import create_app

LOOKS = 10
LOOK_SECONDS = 0.1
"""At most so long between two looks."""

app = create_app(handlers)
kept: list[object] = []


@handlers.handler("leaking")
async def leaking(ctx: Context, key: str) -> str:
    """A little of everything, so that the soak can be seen to find it."""
    write("started", ctx)
    kept.append(os.urandom(200_000))
    kept.extend(os.pipe())
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    trio.lowlevel.spawn_system_task(trio.sleep_forever)
    return finish(ctx, key)


@app.before_serving
async def count() -> None:
    app.nursery.start_soon(count_tasks, Path(os.environ["SOAK_TASKS"]))


async def count_tasks(path: Path) -> None:
    """Write down how many tasks there are: Trio's, and those of the asyncio loop that hosts it.

    The fewest of several looks at irregular moments: without the requests and jobs in flight.
    """
    draft = path.with_suffix(".draft")
    while True:
        looks = []
        for _ in range(LOOKS):
            await trio.sleep(random.uniform(0.0, LOOK_SECONDS))
            looks.append((trio.lowlevel.current_statistics().tasks_living, len(asyncio.all_tasks())))
        of_trio, of_asyncio = (min(counts) for counts in zip(*looks, strict=True))
        draft.write_text(f"{of_trio} {of_asyncio}")
        draft.replace(path)
