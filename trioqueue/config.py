"""The settings: read from the environment once, checked all at once, handed out one by one.

`PORT`, `WORKER_COUNT` and `JOB_QUEUE_CAPACITY` keep the tutorial service's promise: a value that
cannot be used falls back to the default, with a warning. Every other setting fails fast.
"""

import difflib
import importlib
import os
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from trioqueue.errors import ConfigError
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import FINAL, Status

PREFIX = "TRIOQUEUE_"
DEFAULT_RETENTION = {
    Status.COMPLETED: timedelta(days=1),
    Status.CANCELLED: timedelta(days=1),
    Status.DEAD: timedelta(days=30),
}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
CLIENTS = {PREFIX + "URL"}
"""Names that only the command line's clients read; a service passes them over."""

LENIENT = {"port": (1, 65535), "worker_count": (0, 1000), "job_queue_capacity": (1, 100_000)}
"""The tutorial service's settings, lenient in the environment, and the values that they can have."""


def parse_duration(text: object) -> object:
    """Seconds from `90`, `"90"`, `"90s"`, `"5m"`, `"12h"`, `"7d"` or `"2w"`."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw]?)", text.strip())
    if match is None:
        raise ValueError("write a duration as a number of seconds or like 30s, 5m, 12h, 7d")
    return float(match[1]) * UNITS[match[2] or "s"]


def parse_retention(text: object) -> object:
    """`7d` for every final status, or `completed=1d,dead=30d`; what is not named keeps its default."""
    if not isinstance(text, str):
        return text
    retention = dict(DEFAULT_RETENTION)
    for part in text.split(","):
        name, equals, duration = part.rpartition("=")
        seconds = parse_duration(duration)
        names = FINAL if not equals else {name.strip()}
        for status in names:
            if status not in FINAL:
                raise ValueError(f"{status!r} is not a final status; use completed, cancelled or dead")
            retention[Status(status)] = timedelta(seconds=float(str(seconds)))
    return retention


def check_postgres_name(name: str) -> str:
    """A schema or a channel; raises ValueError. Names go into SQL, so they are checked strictly."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", name) or name.startswith("pg_"):
        raise ValueError(
            "write 1 to 40 lower-case letters, digits or _, not beginning with a digit or with pg_"
        )
    return name


def check_postgres_prefix(prefix: str) -> str:
    """What the names of tables begin with, perhaps nothing; raises ValueError."""
    if not re.fullmatch(r"([a-z_][a-z0-9_]{0,19})?", prefix):
        raise ValueError("write up to 20 lower-case letters, digits or _, not beginning with a digit")
    return prefix


def without_secrets(url: str) -> str:
    """A store's URL as it may be shown and logged: no user, no password."""
    if url.startswith("sqlite:"):
        return url
    start = url.partition("//")[0] + "//" if "//" in url else ""
    _, at, rest = url.rpartition("@")
    shown = f"{start}***@{rest}" if at else url
    return re.sub(r"(?i)(passw\w*\s*=\s*)[^&\s]*", r"\1***", shown)


EXPECTED = {
    "store": "write postgresql://user@host/database, sqlite:///relative.db, sqlite:////absolute/path.db "
    "or memory:",
    "handlers": "write package.module:name, the name of a trioqueue.Handlers",
}
"""Plain words for what a pattern would say."""

Duration = Annotated[float, BeforeValidator(parse_duration)]
PostgresName = Annotated[str, AfterValidator(check_postgres_name)]
PostgresPrefix = Annotated[str, AfterValidator(check_postgres_prefix)]


class Settings(BaseSettings):
    """Every setting, with its unit and its default. Each is described in docs/configuration.md."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_by_name=True)

    port: int = Field(8080, ge=1, le=65535, validation_alias="PORT")
    worker_count: int = Field(10, ge=0, le=1000, validation_alias="WORKER_COUNT")
    job_queue_capacity: int = Field(100, ge=1, le=100_000, validation_alias="JOB_QUEUE_CAPACITY")

    host: str = Field("127.0.0.1", min_length=1, max_length=255)
    store: str = Field("sqlite:///trioqueue.db", pattern=r"^(memory:|sqlite:///.+|postgres(ql)?://.*)$")
    postgres_schema: PostgresName = "trioqueue"
    postgres_table_prefix: PostgresPrefix = ""
    postgres_channel: PostgresName | None = None
    postgres_connections: int = Field(5, ge=1, le=100)
    relaxed_durability: bool = False
    handlers: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$")
    lease_seconds: Duration = Field(30.0, ge=1, le=86_400)
    grace_seconds: Duration = Field(25.0, ge=0, le=86_400)
    poll_seconds: Duration = Field(1.0, ge=0.05, le=30)
    retention: Annotated[dict[Status, timedelta], NoDecode, BeforeValidator(parse_retention)] = Field(
        DEFAULT_RETENTION
    )
    max_payload_bytes: int = Field(1_048_576, ge=1, le=1_073_741_824)
    demo_seconds: Duration = Field(1.0, ge=0, le=3600)
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    warnings: list[str] = Field([], exclude=True)
    """What was wrong with the lenient settings, for the log and for `/readyz?verbose`."""

    @model_validator(mode="before")
    @classmethod
    def _fall_back(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        warnings = []
        for field, (lowest, highest) in LENIENT.items():
            name = field.upper()
            if name not in values:
                continue
            text = str(values[name]).strip()
            if not re.fullmatch(r"[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
                del values[name]
                default = cls.model_fields[field].default
                warnings.append(
                    f"{name}={text[:40]!r} is not a whole number from {lowest} to {highest}; using {default}"
                )
        return values | {"warnings": warnings}


def load_settings(**overrides: Any) -> Settings:
    """The settings from the environment, or `ConfigError` with every problem in it.

    `overrides` win over the environment: what a program or a command line asks for.
    """
    problems = _unknown_names()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        for detail in error.errors():
            field = str(detail["loc"][0]) if detail["loc"] else "settings"
            value = str(detail["input"])
            value = (without_secrets(value) if field == "store" else value)[:80]
            message = EXPECTED.get(field, detail["msg"].removeprefix("Value error, "))
            problems.append(f"{_variable(field)}={value!r}: {message}")
        raise ConfigError(problems) from None
    if problems:
        raise ConfigError(problems)
    return settings


def load_handlers(reference: str) -> Handlers:
    """The registry that `package.module:name` names, or `ConfigError` that says what is missing."""
    found = find_by_name(reference, said=f"{PREFIX}HANDLERS={reference!r}")
    if not isinstance(found, Handlers):
        raise ConfigError(
            [f"{PREFIX}HANDLERS={reference!r}: a trioqueue.Handlers is expected, not {type(found).__name__}"]
        )
    return found


def find_by_name(reference: str, *, said: str) -> object:
    """What `package.module:name` names. Raises `ConfigError`, which begins with what somebody `said`."""
    module_name, _, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` and hypercorn do
    try:
        found: object = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ConfigError([f"{said}: there is no module {error.name!r}"]) from error
    except AttributeError:
        raise ConfigError([f"{said}: {module_name} has no {name!r}"]) from None
    except Exception as error:  # whatever the user's module raises while it is imported
        problem = f"importing {module_name} raised {type(error).__name__}: {error}"
        raise ConfigError([f"{said}: {problem}"]) from error
    return found


def _variable(field: str) -> str:
    return field.upper() if field.lower() in LENIENT else PREFIX + field.upper()


def _unknown_names() -> list[str]:
    """Misspelt settings would be ignored in silence; say what was probably meant."""
    known = {_variable(field) for field in Settings.model_fields if field != "warnings"} | CLIENTS
    problems = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            bare = name.removeprefix(PREFIX)
            near = [bare] if bare in known else difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{name}: there is no such setting{hint}")
    return problems
