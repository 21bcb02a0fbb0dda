"""One JSON codec for payloads, results and progress: it accepts the same text on every store.

Refused: NaN and Infinity, numbers beyond a float's range or over 100 characters, lone surrogates,
NUL, nesting over 64 levels, duplicate keys, anything but UTF-8 (RFC 8259 leaves all of these open
or forbids them, and databases and clients differ on each).
"""

import json
import re
from typing import Any, NoReturn

import msgspec

from trioqueue.errors import MalformedJson
from trioqueue.jobs.job import Json

DEPTH = 64
NUMBER_CHARACTERS = 100

_LONG_NUMBER = re.compile(rb"[-+.0-9eE]{%d}" % (NUMBER_CHARACTERS + 1))
# Possessive, and content with an end that is missing: linear in the text, whatever it holds.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def decode(text: bytes) -> Any:  # any JSON value
    """The value of `text`, or `MalformedJson` with what is wrong and where."""
    try:
        string = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the text is not UTF-8 (byte {error.start})") from None
    if string.startswith("\ufeff"):
        raise MalformedJson("the text begins with a byte order mark; send plain UTF-8")
    _refuse_deep_or_long(text)
    try:
        value = _decoder.decode(string)
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"the text is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    if b"\\u" in text:
        _refuse_unstorable_characters(value)
    return value


def decode_kept(text: Json) -> Any:  # any JSON value
    """The value of text that `decode` or `encode` let into a store; six times as fast."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise MalformedJson(f"the stored text is damaged: {error}") from None


def encode(value: object) -> Json:
    """`value` as compact JSON, or `MalformedJson` when it has no faithful form.

    Takes what msgspec takes: builtins, dataclasses, structs, datetimes, UUIDs, enums and so on.
    """
    try:
        text = msgspec.json.encode(value)
        if b"null" in text:
            # msgspec writes NaN and Infinity as null; look again before believing it.
            json.dumps(msgspec.to_builtins(value), allow_nan=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedJson(f"the value cannot be written as JSON: {error}") from None
    _refuse_deep_or_long(text)
    if b"\\u0000" in text:
        _refuse_unstorable_characters(json.loads(text))
    return Json(text)


def _refuse_deep_or_long(text: bytes) -> None:
    """Checked before parsing, because a parser recurses. The first test of each is cheap."""
    if text.count(b"[") + text.count(b"{") > DEPTH and _depth(_STRING.sub(b"", text)) > DEPTH:
        raise MalformedJson(f"the value is nested more than {DEPTH} levels deep")
    if _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_STRING.sub(b'""', text)):
        raise MalformedJson(f"a number has more than {NUMBER_CHARACTERS} characters; send it as a string")


def _depth(structure: bytes) -> int:
    deepest = depth = 0
    for byte in structure:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _refuse_unstorable_characters(value: object) -> None:
    """NUL and lone surrogates, which arrive as escapes: PostgreSQL refuses both."""
    match value:
        case str():
            if "\x00" in value:
                raise MalformedJson("a string contains NUL (\\u0000); leave it out or encode it")
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise MalformedJson("a string contains half of a surrogate pair") from None
        case dict():
            for key, item in value.items():
                _refuse_unstorable_characters(key)
                _refuse_unstorable_characters(item)
        case list():
            for item in value:
                _refuse_unstorable_characters(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise MalformedJson(f"the key {twice!r} stands twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not JSON; send null or a string")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise MalformedJson(f"the number {text} is out of range")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
