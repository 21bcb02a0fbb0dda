"""Settings: lenient where the tutorial service was, strict everywhere else, all problems at once."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from trioqueue.config import PREFIX, Settings, load_handlers, load_settings
from trioqueue.errors import ConfigError
from trioqueue.jobs.job import Status


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.port, settings.worker_count, settings.job_queue_capacity) == (8080, 10, 100)
    assert settings.store == "sqlite:///trioqueue.db"
    assert settings.warnings == []


@pytest.mark.parametrize("text", ["abc", "-3", "", "1e3", "²", "99999999999", "10.5"])
def test_a_bad_worker_count_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WORKER_COUNT", text)
    settings = load_settings()
    assert settings.worker_count == 10
    assert "WORKER_COUNT" in settings.warnings[0]
    assert "using 10" in settings.warnings[0]


def test_good_values_of_the_tutorial_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_COUNT", "3")
    monkeypatch.setenv("JOB_QUEUE_CAPACITY", "7")
    monkeypatch.setenv("PORT", "9000")
    settings = load_settings()
    assert (settings.port, settings.worker_count, settings.job_queue_capacity) == (9000, 3, 7)


def test_durations_and_retention_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOQUEUE_LEASE_SECONDS", "2m")
    monkeypatch.setenv("TRIOQUEUE_RETENTION", "completed=90m,dead=2w")
    settings = load_settings()
    assert settings.lease_seconds == 120
    assert settings.retention == {
        Status.COMPLETED: timedelta(minutes=90),
        Status.CANCELLED: timedelta(days=1),
        Status.DEAD: timedelta(weeks=2),
    }


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOQUEUE_STORE", "mysql://nope")
    monkeypatch.setenv("TRIOQUEUE_GRACE_SECONDS", "never")
    monkeypatch.setenv("TRIOQUEUE_RETENTION", "failed=1d")
    monkeypatch.setenv("TRIOQUEUE_LEASE_SECOND", "30")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "sqlite:///" in text
    assert "did you mean TRIOQUEUE_LEASE_SECONDS?" in text


def test_what_a_program_asks_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOQUEUE_STORE", "sqlite:///env.db")
    assert load_settings(store="memory:").store == "memory:"


def test_every_setting_is_documented(docs: str) -> None:
    for field in Settings.model_fields:
        name = (
            field.upper()
            if field in ("port", "worker_count", "job_queue_capacity")
            else PREFIX + field.upper()
        )
        if field != "warnings":
            assert f"`{name}`" in docs, f"{name} is missing in the documentation"


def test_handlers_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "good_handlers.py").write_text("from trioqueue import Handlers\nhandlers = Handlers()\n")
    (tmp_path / "broken_handlers.py").write_text("1 / 0\n")

    assert load_handlers("good_handlers:handlers").types == []
    for reference, words in {
        "no_such_module:handlers": "no module",
        "good_handlers:handler": "has no 'handler'",
        "good_handlers:Handlers": "expected",
        "broken_handlers:handlers": "ZeroDivisionError",
    }.items():
        with pytest.raises(ConfigError, match=words):
            load_handlers(reference)
