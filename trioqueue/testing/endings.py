"""What ends a test, wherever it is raised, and is never the error of a handler that happens to run."""

import pytest

ENDINGS: tuple[type[BaseException], ...] = (
    KeyboardInterrupt,
    pytest.exit.Exception,
    pytest.fail.Exception,
    pytest.skip.Exception,
)
"""Ctrl-C, a timeout that pytest's plugins raise, and what a test says itself."""
