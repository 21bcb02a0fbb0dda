"""What a run of one seed came to, and the sum of many."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must hold did not."""

    invariant: str
    detail: str
    at: float
    """The virtual second."""


@dataclass(slots=True)
class Report:
    """The figures of one seed, or of many."""

    seed: str
    seeds: int = 1
    violations: list[Violation] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)
    node_seconds: float = 0.0
    cpu_seconds: float = 0.0
    jobs: int = 0
    executions: int = 0
    crashes: int = 0
    pauses: int = 0
    partitions: int = 0
    stops: int = 0
    clock_steps: int = 0
    faults: int = 0
    """Calls that failed although the store was there."""
    faults_after_commit: int = 0
    calls: int = 0
    trace_hash: str = ""
    trace_tail: list[str] = field(default_factory=list)

    @property
    def node_hours(self) -> float:
        return self.node_seconds / 3600

    def count_fault(self, name: str, fate: str) -> None:
        self.faults += 1
        self.faults_after_commit += fate.endswith("after")

    def lines(self) -> list[str]:
        """The figures as a table."""
        rate = self.cpu_seconds or 1.0
        figures: list[tuple[str, str]] = [
            ("seeds", f"{self.seeds:,}"),
            ("node-hours", f"{self.node_hours:,.1f}"),
            ("jobs", f"{self.jobs:,}"),
            ("executions", f"{self.executions:,}"),
            ("calls of the store", f"{self.calls:,}"),
            ("node crashes", f"{self.crashes:,}"),
            ("pauses", f"{self.pauses:,}"),
            ("partitions", f"{self.partitions:,}"),
            ("graceful stops", f"{self.stops:,}"),
            ("clock steps", f"{self.clock_steps:,}"),
            ("store faults", f"{self.faults:,}"),
            ("of these after the commit", f"{self.faults_after_commit:,}"),
            ("CPU seconds", f"{self.cpu_seconds:,.1f}"),
            ("node-hours per CPU second", f"{self.node_hours / rate:.2f}"),
            ("executions per CPU second", f"{self.executions / rate:,.0f}"),
            ("violations", f"{len(self.violations):,}"),
        ]
        return [f"{name:28}{figure:>14}" for name, figure in figures]


def add_up(reports: Iterable[Report]) -> Report:
    """All of them as one."""
    total = Report("", seeds=0)
    for report in reports:
        for name in (
            "seeds",
            "node_seconds",
            "cpu_seconds",
            "jobs",
            "executions",
            "crashes",
            "pauses",
            "partitions",
            "stops",
            "clock_steps",
            "faults",
            "faults_after_commit",
            "calls",
        ):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        total.violations += report.violations
        total.marks += report.marks
    return total
