"""A job-queue service on Trio: durable jobs, typed handlers, cancel that means stopped.

from trioqueue import Context, Handlers
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioqueue.jobs.backoff import Retry
    from trioqueue.jobs.handlers import Handlers
    from trioqueue.runtime.context import Context

__all__ = ["Context", "Handlers", "Retry"]

HOMES = {
    "Context": "trioqueue.runtime.context",
    "Handlers": "trioqueue.jobs.handlers",
    "Retry": "trioqueue.jobs.backoff",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for: pytest loads our plugin in projects that never ask."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(HOMES[name]), name)
    globals()[name] = found
    return found
