"""Every number of a text file equals float32(float(token)), and integers are exact."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.numbers import MAX_FALLBACKS, read_integers, read_numbers
from smile_pipe.pipeline.meshes.source import Source

_DIGITS = st.text("0123456789", min_size=1, max_size=30)
_DECIMALS = st.builds(
    lambda sign, whole, fraction, exponent: sign + whole + fraction + exponent,
    st.sampled_from(["", "-", "+"]),
    _DIGITS,
    st.one_of(st.just(""), st.just("."), _DIGITS.map(lambda d: "." + d)),
    st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from("eE"), st.integers(-400, 400))),
)
_PRINTED = st.one_of(
    st.floats(width=64).map(repr),
    st.floats(width=32).map(repr),
    st.floats(-1e4, 1e4).map("{:.4f}".format),
    st.floats(-1e4, 1e4).map("{:.9g}".format),
    st.floats(-1e4, 1e4).map("{:.8f}".format),
)


def _source(text: str | bytes) -> Source:
    return Source.from_bytes(text.encode() if isinstance(text, str) else text, Path("numbers.txt"))


def _expected(tokens: list[str]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.array([float(token) for token in tokens]).astype(np.float32)


def _assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare bits, including signs of zeros; all NaN are equal."""
    actual = actual.astype(np.float32)
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    finite = ~np.isnan(expected)
    assert np.array_equal(actual[finite].view(np.uint32), expected[finite].view(np.uint32))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(_DECIMALS, _PRINTED), max_size=20))
@example(["-0", "0.0", "-0.0000", "1.", "0e999", "1e-400", "-1e400", "3.4028236e38", "1.17549435e-38", "1e-45"])
@example(["16777217", "16777217.000000000000000000001", "16777216.9999999999999999999", "9007199254740993"])
@example(["99999999", "9999999.99999999", "12345678.12345678", "0.123456789", "123456789012345678901234567890"])
@example(["123456789012.12345678", "999999999999.99999999", "9999999999999999.9", "0000000000000001.00000001"])
@example([".5", "-.5", "+.5", "00000000000000000000000001.5", "0.00000000000000000000000000000000001234"])
def test_decimals_equal_python_float(tokens: list[str]) -> None:
    values, _ = read_numbers(_source(" ".join(tokens)), 0, np.float32)
    _assert_same_bits(values, _expected(tokens))


def test_decimals_halfway_between_two_float32() -> None:
    # Here an error of one unit in the last place of the float64 changes the float32, so no shortcut may guess.
    rng = np.random.default_rng(0)
    lower = (rng.uniform(1, 10, 4000) * 10.0 ** rng.integers(-30, 30, 4000)).astype(np.float32)
    middle = (lower.astype(np.float64) + np.nextafter(lower, np.float32(np.inf)).astype(np.float64)) / 2
    tokens = [repr(value) for value in middle.tolist()]
    tokens += [f"{value:.18e}" for value in middle.tolist()] + [f"{value:.40f}" for value in middle.tolist()]
    _assert_same_bits(read_numbers(_source("\n".join(tokens)), 0, np.float32)[0], _expected(tokens))


def test_random_decimals_of_every_length() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 10 ** rng.integers(1, 10, 20000))
    fraction = rng.integers(0, 10 ** rng.integers(1, 12, 20000))
    tokens = [f"{'-' if i % 3 else ''}{a}.{b:0{i % 12}d}" for i, (a, b) in enumerate(zip(whole, fraction, strict=True))]
    _assert_same_bits(read_numbers(_source(" ".join(tokens)), 0, np.float32)[0], _expected(tokens))


def test_more_fallbacks_than_one_pass_holds() -> None:
    tokens = [f"{i}e-300" for i in range(2 * MAX_FALLBACKS + 5)] + ["7"]
    values, _ = read_numbers(_source(",".join(tokens)), 0, np.float64)
    assert values.tolist() == [float(token) for token in tokens]


def test_numbers_end_at_bracket_and_skip_commas_and_comments() -> None:
    source = _source("1,2 # 3 ]\n\t4,,5\r\n]6")
    values, at = read_numbers(source, 0, np.float32)
    assert values.tolist() == [1, 2, 4, 5]
    assert source.text[at] == ord("]")


@pytest.mark.parametrize(
    "token", ["abc", "1_000", "1e", "1e+", "--1", "1.2.3", "0x10", "1,5e", "٣", "1" * 5000, "1:5", "1.5:", "1;", "?"]
)
def test_invalid_number_is_rejected_with_its_line(token: str) -> None:
    shown = re.escape(repr(token.split(",")[-1].encode()[:40].decode("latin-1")))
    with pytest.raises(MeshError, match=f"^line 3: {shown} is not a number$"):
        read_numbers(_source(f"1\n2\n3 {token} 4"), 0, np.float32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=50), st.sampled_from([" ", ", ", ",", "\n", " #x\n"]))
@example([-1, 0, 99999999, 100000000, 12345678, 2147483647], ",")
def test_integers_are_exact(values: list[int], separator: str) -> None:
    source = _source(separator.join(map(str, values)) + "]")
    out, at = read_integers(source, 0)
    assert out.tolist() == values
    assert source.text[at] == ord("]")


@pytest.mark.parametrize("text", ["1 2 x", "1 2 2147483648", "1 2 .5", "1 2 -", "1 2 :", "1 2 +3"])
def test_integers_stop_at_other_tokens(text: str) -> None:
    out, at = read_integers(_source(text), 0)
    assert (out.tolist(), at) == ([1, 2], 4)


def test_more_numbers_than_estimated() -> None:
    source = _source("1 " * 10000)
    assert read_numbers(source, 0, np.float32)[0].tolist() == [1.0] * 10000
    assert read_integers(source, 0)[0].tolist() == [1] * 10000


def test_empty_or_missing_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(MeshError, match="empty file: 0 bytes"):
        Source.read(tmp_path / "empty")
    with pytest.raises(MeshError, match="cannot be read: No such file"):
        Source.read(tmp_path / "missing")
    with pytest.raises(MeshError, match="cannot be read: Is a directory"):
        Source.read(tmp_path)


def test_too_large_text_file_is_rejected_before_reading(tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(MeshError, match="file too large: 1073741825 bytes; the limit is 1073741824"):
        Source.read(tmp_path / "huge")
