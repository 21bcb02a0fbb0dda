"""The registry: what can be registered, and how a payload is held against a signature."""

from dataclasses import dataclass
from typing import Any

import pytest

from trioqueue import Context, Handlers
from trioqueue.errors import InvalidJob, MalformedJson, UnknownType
from trioqueue.jobs.handlers import encode_result, payload_schema


@dataclass
class Size:
    width: int
    height: int = 100


@pytest.fixture
def handlers() -> Handlers:
    registry = Handlers()

    @registry.handler("thumbnail", timeout_seconds=30, max_attempts=3)
    async def thumbnail(ctx: Context, path: str, sizes: list[Size], quality: float = 0.8) -> None: ...

    @registry.handler("report")
    def report(ctx: Context, **options: int) -> None: ...

    return registry


def test_a_payload_becomes_typed_arguments(handlers: Handlers) -> None:
    arguments = handlers.find("thumbnail").parse({"path": "a.png", "sizes": [{"width": 3}], "quality": 1})
    assert arguments == {"path": "a.png", "sizes": [Size(3, 100)], "quality": 1.0}


@pytest.mark.parametrize(
    ("payload", "pointer", "words"),
    [
        ({"sizes": []}, "/payload/path", "missing required field `path`"),
        ({"path": 3, "sizes": []}, "/payload/path", "expected `str`, got `int`"),
        ({"path": "a", "sizes": [{"width": "3"}]}, "/payload/sizes/0/width", "expected `int`"),
        ({"path": "a", "sizes": [], "widht": 3}, "/payload/widht", "unknown field `widht`"),
        ({"path": "a", "sizes": [], "a/~b": 3}, "/payload/a~1~0b", "unknown field"),
        ([1], "/payload", "an object is expected"),
        (None, "/payload", "an object is expected"),
    ],
)
def test_a_payload_that_does_not_fit_is_named_by_a_pointer(
    handlers: Handlers, payload: object, pointer: str, words: str
) -> None:
    with pytest.raises(InvalidJob, match=words) as caught:
        handlers.find("thumbnail").parse(payload)
    assert caught.value.pointer == pointer


def test_further_keywords_are_checked_too(handlers: Handlers) -> None:
    assert handlers.find("report").parse({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    with pytest.raises(InvalidJob):
        handlers.find("report").parse({"a": "one"})


def test_an_unknown_type_lists_the_known_ones(handlers: Handlers) -> None:
    with pytest.raises(UnknownType, match="report, thumbnail"):
        handlers.find("thumnail")


def test_a_mutable_default_is_not_shared() -> None:
    registry = Handlers()

    @registry.handler("collect")
    async def collect(ctx: Context, into: list[int] = []) -> None: ...  # noqa: B006

    first = registry.find("collect").parse({})
    first["into"].append(1)
    assert registry.find("collect").parse({}) == {"into": []}


def test_a_type_has_one_handler(handlers: Handlers) -> None:
    with pytest.raises(ValueError, match="already has a handler"):
        handlers.handler("report")(lambda ctx: None)


@pytest.mark.parametrize("type", ["", " ", "a b", "é", "-a", "x" * 101, "a\n"])
def test_a_malformed_type_is_refused(type: str) -> None:
    with pytest.raises(ValueError, match="type"):
        Handlers().handler(type)


@pytest.mark.parametrize(
    "options",
    [{"timeout_seconds": 0}, {"timeout_seconds": -1}, {"max_attempts": 0}, {"max_attempts": 10_000}],
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Handlers().handler("a", **options)


def test_signatures_that_json_cannot_fill_are_refused() -> None:
    def no_context() -> None: ...

    def positional(ctx: Context, *paths: str) -> None: ...

    def unspeakable(ctx: Context, callback: type[Handlers]) -> None: ...

    for function in (no_context, positional, unspeakable):
        with pytest.raises(TypeError, match=function.__name__):
            Handlers().handler("a")(function)


def test_the_schema_of_a_payload_is_json_schema(handlers: Handlers) -> None:
    schema = payload_schema(handlers.find("thumbnail"))
    assert "path" in str(schema)
    assert "width" in str(schema)


def test_a_result_must_be_json() -> None:
    assert encode_result(Size(1, 2), 22) == b'{"width":1,"height":2}'
    assert encode_result(None, 1) is None
    with pytest.raises(MalformedJson, match="result cannot be kept"):
        encode_result(object(), 100)
