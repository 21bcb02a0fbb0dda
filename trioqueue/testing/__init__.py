"""For tests: the names that go with the pytest plugin's fixtures, `tq` and `tq_server`.

Handlers are tested with `tq`, see docs/testing.md. A store of your own is tested with the conformance
suite, in `trioqueue.testing.conformance`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioqueue.testing.client import Client
    from trioqueue.testing.clock import TestClock
    from trioqueue.testing.cuts import CutReport, NotRepeatable, cut_everywhere
    from trioqueue.testing.cuts.subject import Cut
    from trioqueue.testing.cuts.words import Finding, Harm
    from trioqueue.testing.drain import Drained, Tally
    from trioqueue.testing.errors import CannotCut, NeverHappened, NotDrained
    from trioqueue.testing.faults import Faults
    from trioqueue.testing.jobs import ANYTHING, SeenJob
    from trioqueue.testing.log import EventLog, Recorded
    from trioqueue.testing.perform import Performed
    from trioqueue.testing.place import Place
    from trioqueue.testing.queue import QueueUnderTest
    from trioqueue.testing.server import ServerUnderTest

__all__ = [
    "ANYTHING",
    "CannotCut",
    "Client",
    "Cut",
    "CutReport",
    "Drained",
    "EventLog",
    "Faults",
    "Finding",
    "Harm",
    "NeverHappened",
    "NotDrained",
    "NotRepeatable",
    "Performed",
    "Place",
    "QueueUnderTest",
    "Recorded",
    "SeenJob",
    "ServerUnderTest",
    "Tally",
    "TestClock",
    "cut_everywhere",
]

HOMES = {
    "ANYTHING": "jobs",
    "CannotCut": "errors",
    "Client": "client",
    "Cut": "cuts.subject",
    "CutReport": "cuts",
    "Drained": "drain",
    "EventLog": "log",
    "Faults": "faults",
    "Finding": "cuts.words",
    "Harm": "cuts.words",
    "NeverHappened": "errors",
    "NotDrained": "errors",
    "NotRepeatable": "cuts",
    "Performed": "perform",
    "Place": "place",
    "QueueUnderTest": "queue",
    "Recorded": "log",
    "SeenJob": "jobs",
    "ServerUnderTest": "server",
    "Tally": "drain",
    "TestClock": "clock",
    "cut_everywhere": "cuts",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for: pytest loads the plugin also where nobody does."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = found
    return found
