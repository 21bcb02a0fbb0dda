"""How long a user's year takes: docs/examples/test_year.py, and what the plugin costs those without it.

    python -m tests.bench.testing

Prints figures and asserts nothing. CPU seconds are those of the test alone, without pytest's start.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
ROUNDS = 3

CONFTEST = """
import time

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    real, cpu = time.perf_counter(), time.process_time()
    result = yield
    print(f"\\nTOOK {item.name} {time.perf_counter() - real:.2f} {time.process_time() - cpu:.2f}")
    return result
"""


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for _ in range(ROUNDS):
        for name, real, cpu in year():
            print(f"{name}: {real} s, of which {cpu} s of CPU")
    print(f"the plugin's import: {plugin_milliseconds():.1f} ms")


def year() -> list[tuple[str, str, str]]:
    """Each story of a year: its name, real seconds, CPU seconds."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "bench_hooks.py").write_text(CONFTEST)
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "bench_hooks"]
        command += ["-o", "trio_mode=true", "-c", os.devnull, "--rootdir", str(EXAMPLES), "test_year.py"]
        environment = {**os.environ, "PYTHONPATH": directory}
        done = subprocess.run(
            command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return re.findall(r"^TOOK (\S+) ([\d.]+) ([\d.]+)$", done.stdout, re.MULTILINE)


def plugin_milliseconds() -> float:
    """The median of what importing the plugin adds to a started pytest."""
    script = "import pytest, time; begin = time.perf_counter(); import trioqueue.testing.plugin; "
    script += "print((time.perf_counter() - begin) * 1000)"
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    return sorted(times)[2]


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"measured in {time.perf_counter() - begin:.0f} s")
