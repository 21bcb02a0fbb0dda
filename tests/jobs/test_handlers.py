"""The registry: what can be registered, and how a payload is held against a signature."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from trioqueue import Context, Handlers
from trioqueue.errors import InvalidJob, MalformedJson, UnknownType
from trioqueue.jobs.handlers import DemoHandlers, encode_result, payload_schema


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


def test_a_further_keyword_cannot_take_the_place_of_the_context(handlers: Handlers) -> None:
    with pytest.raises(InvalidJob, match="the handler's context has this name") as caught:
        handlers.find("report").parse({"ctx": 1})
    assert caught.value.pointer == "/payload/ctx"


def test_a_type_that_refuses_a_value_in_its_own_way_is_quoted() -> None:
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ArithmeticError("odd")

    registry = Handlers()

    @registry.handler("halve")
    async def halve(ctx: Context, even: Even) -> None: ...

    assert registry.find("halve").parse({"even": {"number": 2}}) == {"even": Even(2)}
    with pytest.raises(InvalidJob, match="ArithmeticError: odd") as caught:
        registry.find("halve").parse({"even": {"number": 3}})
    assert caught.value.pointer == "/payload"


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


def test_a_registry_shows_its_types(handlers: Handlers) -> None:
    assert repr(handlers) == "<Handlers report, thumbnail>"
    assert repr(Handlers()) == "<Handlers none>"


def test_the_decorator_needs_the_type() -> None:
    """`@handlers.handler` without brackets hands the function over as the type."""
    with pytest.raises(TypeError, match="with the type that the function handles"):
        Handlers().handler(lambda ctx: None)  # type: ignore[arg-type]


def test_a_generator_is_refused() -> None:
    def steps(ctx: Context) -> Iterator[int]:
        yield 1

    async def later_steps(ctx: Context) -> AsyncIterator[int]:
        yield 1

    for function in (steps, later_steps):
        with pytest.raises(TypeError, match=f"{function.__name__} must return its result"):
            Handlers().handler("a")(function)


async def test_demo_handlers_take_every_type_and_every_payload() -> None:
    async def simulate(ctx: object, payload: object) -> object:
        await trio.lowlevel.checkpoint()
        return payload

    handler = DemoHandlers(simulate).find("whatever")
    assert (handler.type, handler.is_async) == ("whatever", True)
    assert await handler.function(None, **handler.parse([1, "two"])) == [1, "two"]  # type: ignore[misc]


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


def test_a_retry_that_is_no_policy_is_refused() -> None:
    with pytest.raises(TypeError, match="write retry=Retry"):
        Handlers().handler("a", retry=5)  # type: ignore[arg-type]


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


def test_a_result_that_is_too_large_is_refused_with_a_remedy() -> None:
    assert encode_result("tea", 5) == b'"tea"'
    with pytest.raises(MalformedJson, match=r"5 bytes, and at most 4 are accepted.+return a ref"):
        encode_result("tea", 4)
