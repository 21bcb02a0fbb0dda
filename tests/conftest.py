"""What every test may ask for."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def docs() -> str:
    """Every page of the documentation, and the README, as one text."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text() for page in pages)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own environment must not decide what a test sees."""
    import os

    for name in list(os.environ):
        if name.startswith("TRIOQUEUE_") or name in ("PORT", "WORKER_COUNT", "JOB_QUEUE_CAPACITY"):
            monkeypatch.delenv(name)
