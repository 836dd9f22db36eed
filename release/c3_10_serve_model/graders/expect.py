"""What checks say of a student's values: each function fails with a sentence and carries what was expected and what came.

Values that come from a student are hostile: everything here looks at types before it compares.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from graders.subject import StudentError


class Mismatch(AssertionError):
    """A value that is not what it should be; `expected` and `actual` are shown side by side."""

    def __init__(self, message: str, expected: Any = None, actual: Any = None) -> None:
        super().__init__(message)
        self.message, self.expected, self.actual = message, expected, actual


def that(condition: object, message: str, *, expected: Any = None, actual: Any = None) -> None:
    """Fail with `message` unless `condition` is true."""
    if not (condition is True or condition is np.True_ or (isinstance(condition, np.bool_) and bool(condition))):
        raise Mismatch(message, expected, actual)


def equal(actual: Any, expected: Any, why: str = "") -> None:
    """Fail unless `actual` equals `expected`, types included as far as the wire keeps them (lists and tuples are the same)."""
    if not _same(actual, expected):
        raise Mismatch(why or "The value is not the expected one.", expected, actual)


def _same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(actual, (list, tuple))
            and len(actual) == len(expected)
            and all(_same(mine, theirs) for mine, theirs in zip(actual, expected, strict=True))
        )
    if isinstance(expected, dict):
        return isinstance(actual, dict) and actual.keys() == expected.keys() and all(_same(actual[key], expected[key]) for key in expected)
    if isinstance(expected, np.ndarray) or isinstance(actual, np.ndarray):
        if not (isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray)):
            return False
        return actual.shape == expected.shape and bool(np.array_equal(actual, expected, equal_nan=expected.dtype.kind in "fc"))
    if isinstance(expected, bool) or isinstance(actual, bool):
        return type(actual) is type(expected) and actual == expected
    try:
        return bool(actual == expected)
    except Exception:  # noqa: BLE001 - a value that can't be compared is not equal
        return False


def array(value: Any, *, shape: tuple[int, ...] | None = None, dtype: Any = None, name: str = "the result") -> np.ndarray:
    """Return `value` as an array, or fail with a sentence about its type, shape or dtype."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise Mismatch(f"Expected {name} to be a NumPy array, got {_kind(value)}.", _wanted(shape, dtype), value)
    result = np.asarray(value)
    if shape is not None and result.shape != shape:
        raise Mismatch(f"Expected {name} to have shape {shape}, got {result.shape}.", _wanted(shape, dtype), value)
    if dtype is not None and result.dtype != np.dtype(dtype):
        raise Mismatch(f"Expected {name} to have dtype {np.dtype(dtype)}, got {result.dtype}.", _wanted(shape, dtype), value)
    return result


def _kind(value: Any) -> str:
    return "None (is there a `return`?)" if value is None else f"a {type(value).__name__}"


def _wanted(shape: tuple[int, ...] | None, dtype: Any) -> str:
    words = ["an array"]
    if shape is not None:
        words.append(f"of shape {shape}")
    if dtype is not None:
        words.append(f"of dtype {np.dtype(dtype)}")
    return " ".join(words)


def number(value: Any, name: str = "the result") -> float:
    """Return `value` as a float, or fail unless it is a real number (not a bool)."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    raise Mismatch(f"Expected {name} to be a number, got {_kind(value)}.", "a number", value)


def close(actual: Any, expected: Any, *, rtol: float = 1e-5, atol: float = 1e-8, why: str = "") -> None:
    """Fail unless `actual` has `expected`'s shape and |actual − expected| ≤ atol + rtol·|expected| everywhere."""
    wanted = np.asarray(expected)
    got = array(actual, shape=wanted.shape) if wanted.shape else np.asarray(number(actual))
    with np.errstate(all="ignore"):
        good = np.isclose(got.astype(np.float64), wanted.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
    if good.all():
        return
    message = why or "The values are not close enough."
    if wanted.shape:
        position = tuple(int(index) for index in np.argwhere(~good)[0])
        shown = position[0] if len(position) == 1 else position
        message += f" {int((~good).sum())} of {good.size} differ by more than the tolerance, first at index {shown}."
    raise Mismatch(message, wanted, got)


@contextlib.contextmanager
def raises(kind: str | tuple[str, ...]) -> Iterator[None]:
    """Demand that the student's code raises an exception whose type name is `kind` (or one of them)."""
    kinds = (kind,) if isinstance(kind, str) else kind
    wanted = " or ".join(kinds)
    try:
        yield
    except StudentError as error:
        if error.kind not in kinds:
            raise Mismatch(f"Expected a {wanted}, got a {error.kind}.", wanted, f"{error.kind}: {error.message}") from None
        return
    raise Mismatch(f"Expected a {wanted}, but nothing was raised.", wanted, "no exception")
