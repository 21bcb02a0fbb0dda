"""What the web needs of the node that it is the face of. `trioqueue.node.Node` is one."""

from typing import Protocol

import trio

from trioqueue.health import Health
from trioqueue.metrics import Metrics
from trioqueue.service.service import Service


class Hosted(Protocol):
    """A node, as its host sees it. Made inside the Trio run that it lives in."""

    @property
    def service(self) -> Service: ...

    @property
    def health(self) -> Health: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def is_demo(self) -> bool:
        """Whether jobs are only simulated, because no handlers are configured."""

    @property
    def workers(self) -> int:
        """How many jobs it runs at the same time. With 0 it only accepts jobs."""

    @property
    def draining(self) -> trio.Event:
        """Set once no new jobs are accepted any more."""

    @property
    def stopped(self) -> trio.Event:
        """Set when `run` has ended, however it ended."""

    @property
    def grace_seconds(self) -> float:
        """How long `run` goes on at most after `stop`, but for moments of settling and closing."""

    @property
    def leases_left(self) -> int:
        """How many claims this node holds now; after `run`, how many it could not give back."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the store and run jobs until `stop` was called and the work has ended.

        Started once jobs are accepted. Cancelled from outside, it drains as after `stop` and
        gives its claims back before it lets the cancellation through. Raises what broke it:
        `ConfigError`, `StoreUnavailable` before it has started, `LoopDied` later.
        """

    def close_intake(self) -> None:
        """From now on new jobs are refused with `Draining`, and readiness is red."""

    def stop(self) -> None:
        """The server has stopped: close intake, finish what runs within the grace period, end."""

    def cut(self) -> None:
        """As `stop`, without the grace period: attempts are cancelled now and released."""
