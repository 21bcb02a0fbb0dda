"""Settings: lenient where the tutorial service was, strict everywhere else, all problems at once."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from trioqueue.config import PREFIX, Settings, load_handlers, load_settings, without_secrets
from trioqueue.errors import ConfigError
from trioqueue.jobs.job import Status
from trioqueue.node import postgres_options
from trioqueue.store.options import PostgresOptions


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://alice:s3cret@host/jobs", "postgresql://***@host/jobs"),
        (
            "postgresql://alice:s3@cr/et@host:5432/jobs?sslmode=require",
            "postgresql://***@host:5432/jobs?sslmode=require",
        ),
        (
            "postgresql://host/jobs?user=alice&password=s3cret&sslmode=require",
            "postgresql://host/jobs?user=alice&password=***&sslmode=require",
        ),
        ("postgresql://host/jobs?sslpassword=s3cret", "postgresql://host/jobs?sslpassword=***"),
        ("host=db user=alice password = s3cret", "host=db user=alice password = ***"),
        ("mysql:alice:s3cret@host", "***@host"),
        ("sqlite:////srv/me@home/jobs.db", "sqlite:////srv/me@home/jobs.db"),
        ("memory:", "memory:"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_an_error_does_not_show_the_stores_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOQUEUE_STORE", "postgresqlx://alice:s3cret@host/jobs")
    with pytest.raises(ConfigError, match=r"TRIOQUEUE_STORE='postgresqlx://\*\*\*@host/jobs'") as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://host/jobs", "postgres://alice@/jobs", "postgresql://"])
def test_a_store_may_be_on_a_server(url: str) -> None:
    assert load_settings(store=url).store == url


def test_the_options_of_a_postgresql_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert postgres_options(load_settings()) == PostgresOptions()
    monkeypatch.setenv("TRIOQUEUE_POSTGRES_SCHEMA", "jobs")
    monkeypatch.setenv("TRIOQUEUE_POSTGRES_TABLE_PREFIX", "tq_")
    monkeypatch.setenv("TRIOQUEUE_POSTGRES_CHANNEL", "tq_hints")
    monkeypatch.setenv("TRIOQUEUE_POSTGRES_CONNECTIONS", "20")
    monkeypatch.setenv("TRIOQUEUE_RELAXED_DURABILITY", "true")
    assert postgres_options(load_settings()) == PostgresOptions(
        schema="jobs", table_prefix="tq_", channel="tq_hints", connections=20, relaxed_durability=True
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("POSTGRES_SCHEMA", ""),
        ("POSTGRES_SCHEMA", "Jobs"),
        ("POSTGRES_SCHEMA", "pg_jobs"),
        ("POSTGRES_SCHEMA", "1jobs"),
        ("POSTGRES_SCHEMA", 'j"obs'),
        ("POSTGRES_SCHEMA", "j" * 41),
        ("POSTGRES_CHANNEL", "hints; DROP"),
        ("POSTGRES_TABLE_PREFIX", "p" * 21),
        ("POSTGRES_TABLE_PREFIX", "a-"),
        ("POSTGRES_CONNECTIONS", "0"),
        ("POSTGRES_CONNECTIONS", "101"),
        ("RELAXED_DURABILITY", "perhaps"),
    ],
)
def test_names_that_go_into_sql_are_checked(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"TRIOQUEUE_{name}", text)
    with pytest.raises(ConfigError, match=f"TRIOQUEUE_{name}="):
        load_settings()


def test_whoever_opens_a_store_is_held_to_the_same_rule() -> None:
    options = PostgresOptions(schema="Jobs", table_prefix="9", channel="pg_x")
    assert [problem.split("'")[1] for problem in options.problems()] == ["Jobs", "9", "pg_x"]
    assert PostgresOptions(schema="s" * 40, table_prefix="p" * 20).problems() == []


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
