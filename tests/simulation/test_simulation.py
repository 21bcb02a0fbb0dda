"""The service under every kind of trouble at once, thousands of times, each time in an order of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.report import add_up
from tests.simulation.runs import missing, run_seeds, tell_failure
from tests.simulation.simulate import simulate

ROOT = Path(__file__).parent.parent.parent
SEEDS = 110
PROCESSES = min(2, os.cpu_count() or 1)

REPLAYED = """
from tests.simulation.simulate import simulate
print(*(simulate(seed, node_hours=0.05).trace_hash for seed in range(20)))
"""


@pytest.mark.timeout(900)
def test_a_hundred_node_hours_of_trouble_violate_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reports = list(run_seeds(range(SEEDS), node_hours=1.0, processes=PROCESSES))
    total = add_up(reports)
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(total.lines()) + "\n")
    failures = [tell_failure(report, node_hours=1.0) for report in reports if report.violations]
    assert not failures, "\n\n".join(failures[:3])
    assert missing(total.marks) == []
    assert total.seeds >= 100
    assert total.node_hours >= 100
    assert total.executions >= 50_000
    assert total.crashes >= 2_000
    assert total.faults >= 10_000
    assert total.faults_after_commit >= total.faults / 4
    assert total.pauses >= 500
    assert total.partitions >= 500
    assert total.clock_steps >= 1_000


@pytest.mark.timeout(600)
def test_a_seed_is_one_story_in_every_process() -> None:
    told = [_replay_in_another_process(hash_seed) for hash_seed in ("1", "2")]
    assert len(set(told[0])) == 20
    assert told[0] == told[1]


def test_another_seed_is_another_story() -> None:
    reports = [simulate(seed, node_hours=0.02, focus="crashes") for seed in (1, 1, 2)]
    hashes = [report.trace_hash for report in reports]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def _replay_in_another_process(hash_seed: str) -> list[str]:
    """The hashes of twenty stories, with Python's own hashes differing."""
    done = subprocess.run(
        [sys.executable, "-c", REPLAYED],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
