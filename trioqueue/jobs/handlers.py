"""The user's functions by type: register, look up, check a payload against the signature."""

import copy
import inspect
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from trioqueue.errors import InvalidJob, MalformedJson, UnknownType
from trioqueue.jobs import codec
from trioqueue.jobs.backoff import DEFAULT_RETRY, Retry
from trioqueue.jobs.job import Json
from trioqueue.jobs.pointer import locate

Function = TypeVar("Function", bound=Callable[..., object])
Arguments = type[msgspec.Struct]
Annotation = Any  # whatever a parameter may be annotated with

TYPE_CHARACTERS = 100
TYPE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*")


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function and the defaults of its jobs."""

    type: str
    function: Callable[..., object]
    is_async: bool
    timeout_seconds: float | None
    max_attempts: int
    arguments: Arguments
    """The function's parameters (without the context) as a record; converting a payload checks it."""
    context_name: str
    extra: Annotation | None
    """What `**options: T` accepts; None when the function takes no further keywords."""
    retry: Retry = DEFAULT_RETRY

    def parse(self, payload: object) -> dict[str, Any]:
        """The keyword arguments for a decoded payload, or `InvalidJob` with a pointer below `/payload`."""
        if not isinstance(payload, dict):
            raise InvalidJob("/payload", "an object is expected: one key for each argument of the handler")
        known = self.arguments.__struct_fields__
        more: dict[str, Any] = {}
        try:
            if self.extra is not None:
                others = {key: value for key, value in payload.items() if key not in known}
                if self.context_name in others:
                    raise InvalidJob(f"/payload/{self.context_name}", "the handler's context has this name")
                more = {key: msgspec.convert(value, self.extra) for key, value in others.items()}
                payload = {key: value for key, value in payload.items() if key in known}
            arguments = msgspec.convert(payload, self.arguments)
        except InvalidJob:
            raise
        except msgspec.ValidationError as error:
            pointer, problem = locate(str(error))
            raise InvalidJob(f"/payload{pointer}", problem) from None
        except Exception as error:  # whatever the __post_init__ of a user's type raises
            raise InvalidJob("/payload", f"{type(error).__name__}: {error}") from error
        return {name: getattr(arguments, name) for name in known} | more


class Handlers:
    """The registry that a user's module exports.

        handlers = Handlers()

        @handlers.handler("thumbnail", timeout_seconds=30)
        async def thumbnail(ctx: Context, path: str, width: int = 200) -> dict[str, int]: ...

    An `async def` function runs on Trio, a plain one in a thread. The first parameter is the
    context; the others are the payload's keys, checked against their annotations when a job is
    enqueued and again when it runs.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def handler(
        self,
        type: str,
        *,
        timeout_seconds: float | None = None,
        max_attempts: int = 5,
        retry: Retry = DEFAULT_RETRY,
    ) -> Callable[[Function], Function]:
        """Register the decorated function for jobs of `type`.

        `timeout_seconds` limits each attempt, and `max_attempts` the attempts that may fail;
        a job may ask for other values. `retry` says how long a failed job waits, and after which
        errors it is not tried again. Raises ValueError for a type that is taken or malformed,
        TypeError for a signature that cannot be filled from JSON.
        """
        if not isinstance(type, str):
            raise TypeError('write @handlers.handler("type"), with the type that the function handles')
        if not TYPE_PATTERN.fullmatch(type) or len(type) > TYPE_CHARACTERS:
            raise ValueError(
                f"the type {type!r} must be 1 to {TYPE_CHARACTERS} letters, digits or any of _ . : / -"
            )
        if timeout_seconds is not None and not 0 < timeout_seconds <= 10_000_000:
            raise ValueError(f"timeout_seconds={timeout_seconds!r} must be positive")
        if not 1 <= max_attempts <= 1000:
            raise ValueError(f"max_attempts={max_attempts!r} must be from 1 to 1000")
        if not isinstance(retry, Retry):
            raise TypeError("write retry=Retry(…), with the waits between attempts")

        def register(function: Function) -> Function:
            if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
                raise TypeError(f"the handler {function.__qualname__} must return its result, not yield")
            if type in self._handlers:
                taken = self._handlers[type].function
                raise ValueError(f"the type {type!r} already has a handler: {taken.__qualname__}")
            arguments, extra = _arguments(type, function)
            self._handlers[type] = Handler(
                type=type,
                function=function,
                is_async=inspect.iscoroutinefunction(function),
                timeout_seconds=timeout_seconds,
                max_attempts=max_attempts,
                arguments=arguments,
                context_name=next(iter(inspect.signature(function).parameters)),
                extra=extra,
                retry=retry,
            )
            return function

        return register

    @property
    def types(self) -> list[str]:
        return sorted(self._handlers)

    def __repr__(self) -> str:
        return f"<Handlers {', '.join(self.types) or 'none'}>"

    def find(self, type: str) -> Handler:
        """The handler of `type`, or `UnknownType`."""
        try:
            return self._handlers[type]
        except KeyError:
            raise UnknownType(type, self.types) from None


class DemoHandlers(Handlers):
    """Accepts every type and simulates it by a short sleep: what runs before handlers are configured."""

    def __init__(self, simulate: Callable[..., Awaitable[object]]) -> None:
        super().__init__()
        self._simulate = simulate

    def find(self, type: str) -> Handler:
        return DemoHandler(
            type=type,
            function=self._simulate,
            is_async=True,
            timeout_seconds=None,
            max_attempts=5,
            arguments=msgspec.Struct,
            context_name="ctx",
            extra=None,
        )


class DemoHandler(Handler):
    """Takes any payload at all."""

    def parse(self, payload: object) -> dict[str, Any]:
        return {"payload": payload}


def encode_result(value: object, max_bytes: int) -> Json | None:
    """A handler's result as JSON; `MalformedJson` names the remedy when it cannot be kept."""
    if value is None:
        return None
    try:
        text = codec.encode(value)
    except MalformedJson as error:
        raise MalformedJson(f"the handler's result cannot be kept: {error.problem}") from None
    if len(text) > max_bytes:
        raise MalformedJson(
            f"the handler's result cannot be kept: {len(text)} bytes, and at most {max_bytes} are accepted; "
            "keep large data elsewhere and return a reference to it"
        )
    return text


def _arguments(type_name: str, function: Callable[..., object]) -> tuple[Arguments, Annotation | None]:
    """The function's parameters after the context, as a struct that refuses unknown fields."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(f"the handler {function.__qualname__} needs a first parameter for the context")
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []  # what defstruct takes: (name, type) or (name, type, default)
    extra: Annotation | None = None
    for parameter in parameters[1:]:
        annotation = hints.get(parameter.name, Any)
        match parameter.kind:
            case inspect.Parameter.VAR_KEYWORD:
                extra = annotation
            case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.POSITIONAL_ONLY:
                raise TypeError(
                    f"the handler {function.__qualname__} has the positional parameter {parameter.name!r}; "
                    "a payload has names only"
                )
            case _ if parameter.default is inspect.Parameter.empty:
                fields.append((parameter.name, annotation))
            case _:
                fields.append((parameter.name, annotation, _field_default(parameter.default)))
    try:
        arguments = msgspec.defstruct(
            f"Payload of {type_name}", fields, kw_only=True, forbid_unknown_fields=True
        )
        msgspec.json.schema(arguments)
    except TypeError as error:
        raise TypeError(f"the handler {function.__qualname__} cannot be called from JSON: {error}") from None
    return arguments, extra


def _field_default(default: object) -> object:
    """Mutable defaults become factories: every attempt gets its own."""
    if isinstance(default, list | dict | set | bytearray):
        kept = default
        return msgspec.field(default_factory=lambda: copy.copy(kept))
    return default


def payload_schema(handler: Handler) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a handler's payload."""
    return msgspec.json.schema(handler.arguments)
