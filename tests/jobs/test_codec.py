"""What the codec takes, what it refuses, and that both are the same in both directions."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioqueue.errors import MalformedJson
from trioqueue.jobs import codec
from trioqueue.jobs.job import Json

REFUSED = {
    "not json": b"{",
    "empty": b"",
    "two values": b"1 2",
    "NaN": b'{"a": NaN}',
    "Infinity": b"[Infinity]",
    "minus Infinity": b"-Infinity",
    "beyond a float": b"1e400",
    "long number": b"[" + b"1" * 101 + b"]",
    "long fraction": b"0." + b"1" * 100,
    "lone surrogate": b'"\\ud800"',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "NUL": b'"a\\u0000b"',
    "raw NUL": b'"a\x00b"',
    "NUL in a key": b'{"a": {"\\u0000": 1}}',
    "deep array": b"[" * 65 + b"]" * 65,
    "deep object": b'{"a":' * 65 + b"1" + b"}" * 65,
    "very deep": b"[" * 100_000,
    "duplicate key": b'{"a": 1, "a": 2}',
    "duplicate key below": b'[{"a": {"b": 1, "b": 1}}]',
    "latin-1": b'"\xe9"',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "surrogate in utf-8": b'"\xed\xa0\x80"',
}

TAKEN: dict[str, tuple[bytes, Any]] = {
    "object": (b'{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
    "scalar": (b"3", 3),
    "depth 64": (b"[" * 64 + b"]" * 64, None),
    "brackets in a string": (b'"' + b"[" * 500 + b'"', "[" * 500),
    "digits in a string": (b'"' + b"1" * 500 + b'"', "1" * 500),
    "number of 100 digits": (b"1" * 100, int("1" * 100)),
    "surrogate pair": (b'"\\ud83d\\ude00"', "😀"),
    "escaped backslash before u0000": (b'"\\\\u0000"', "\\u0000"),
    "same key in two objects": (b'[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_refused(text: bytes) -> None:
    with pytest.raises(MalformedJson):
        codec.decode(text)


@pytest.mark.parametrize(("text", "value"), TAKEN.values(), ids=TAKEN.keys())
def test_taken(text: bytes, value: object) -> None:
    decoded = codec.decode(text)
    if value is not None:
        assert decoded == value


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": -math.inf, "b": None}, "a\x00", "\ud800", object(), 10**200, {1j: 2}],
    ids=repr,
)
def test_a_value_without_a_faithful_form_is_refused(value: object) -> None:
    with pytest.raises(MalformedJson):
        codec.encode(value)


def test_a_result_that_is_too_deep_is_refused() -> None:
    value: object = 1
    for _ in range(65):
        value = [value]
    with pytest.raises(MalformedJson):
        codec.encode(value)


def test_stored_text_is_read_back_and_damage_is_named() -> None:
    """A row that something else has written: whoever reads it is told, instead of a driver's error."""
    assert codec.decode_kept(Json(b'{"a": [1]}')) == {"a": [1]}
    with pytest.raises(MalformedJson, match="the stored text is damaged"):
        codec.decode_kept(Json(b'{"a": '))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**98), 10**98)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_what_can_be_written_comes_back_unchanged(value: object) -> None:
    assert codec.decode(codec.encode(value)) == value


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_nothing_but_malformed_json_is_ever_raised(text: bytes) -> None:
    try:
        value = codec.decode(text)
    except MalformedJson:
        return
    assert codec.decode(codec.encode(value)) == value
