"""For tests: the names that go with the pytest plugin's fixtures, `tq` and `tq_server`.

Handlers are tested with `tq`, see docs/testing.md. A store of your own is tested with the conformance
suite, in `trioqueue.testing.conformance`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioqueue.testing.cuts import CannotCut, CutReport, NotRepeatable, cut_everywhere
    from trioqueue.testing.cuts.subject import Cut
    from trioqueue.testing.drain import Drained
    from trioqueue.testing.jobs import ANYTHING, SeenJob
    from trioqueue.testing.perform import Performed
    from trioqueue.testing.queue import QueueUnderTest
    from trioqueue.testing.server import ServerUnderTest

__all__ = [
    "ANYTHING",
    "CannotCut",
    "Cut",
    "CutReport",
    "Drained",
    "NotRepeatable",
    "Performed",
    "QueueUnderTest",
    "SeenJob",
    "ServerUnderTest",
    "cut_everywhere",
]

HOMES = {
    "ANYTHING": "jobs",
    "CannotCut": "cuts",
    "Cut": "cuts.subject",
    "CutReport": "cuts",
    "Drained": "drain",
    "NotRepeatable": "cuts",
    "Performed": "perform",
    "QueueUnderTest": "queue",
    "SeenJob": "jobs",
    "ServerUnderTest": "server",
    "cut_everywhere": "cuts",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for: pytest loads the plugin also where nobody does."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = found
    return found
