"""What the settings of a test are unless it says so, and which ones it can say."""

from collections.abc import Mapping
from typing import Any

from trioqueue.config import Settings
from trioqueue.testing.errors import unknown

USUAL: Mapping[str, Any] = {
    "grace_seconds": 0,
    "log_level": "error",  # the events are written down already
    "relaxed_durability": True,
    "retention": "5000d",  # a test that lives for years asks at its end what has become of the jobs
}
"""What is else than in a service."""

SETTINGS = Settings.model_fields.keys() - {"warnings"}
ELSEWHERE = {
    "store": '`@pytest.mark.trioqueue(store="memory")`, or `--tq-store=memory`',
    "postgres_schema": "it is `tq.place.schema`",
    "handlers": "the fixture `tq_handlers`, or `tq.start(handlers)`",
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise TypeError for a setting that there is none of, and for one that tests say in another way."""
    for name in settings:
        if name in ELSEWHERE:
            raise TypeError(f"the setting {name} is said otherwise in tests: {ELSEWHERE[name]}")
        if name not in SETTINGS:
            raise TypeError(f"among the settings {unknown(name, SETTINGS)}")
