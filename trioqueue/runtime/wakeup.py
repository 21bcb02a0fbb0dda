"""A bell that remembers one ring."""

import trio


class Wakeup:
    """`wait` returns once for any number of `ring`s since the last time it returned."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()

    async def wait_at_most(self, seconds: float) -> bool:
        """Whether it rang within `seconds`."""
        with trio.move_on_after(seconds):
            await self.wait()
            return True
        return False
