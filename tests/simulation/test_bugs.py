"""The simulator finds every planted bug, so that its silence about the product means something."""

import time

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.simulate import simulate

CPU_SECONDS = 60.0
"""Within so much work each must be found. Most take less than one."""

NODE_HOURS = 0.5


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    bug, focus = BUGS[name]
    began = time.process_time()
    seed = 0
    while time.process_time() - began < CPU_SECONDS:
        with bug():
            report = simulate(f"bug {seed}", node_hours=NODE_HOURS, focus=focus)
        if report.violations:
            assert simulate(f"bug {seed}", node_hours=NODE_HOURS, focus=focus).violations == []
            return
        seed += 1
    pytest.fail(f"{seed} seeds with {name!r}, and nothing was noticed")
