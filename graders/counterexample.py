"""Values and calls as Python text that a student can paste into the notebook."""

from __future__ import annotations

from typing import Any

import numpy as np

from graders.subject import CallRecord, Handle, StudentError

MAX_TEXT = 3_000
MAX_ARRAY = 240
MAX_CALLS = 8


def as_code(value: Any) -> str:
    """Return Python text for `value`, at most a few thousand characters; long arrays are summarised and say so."""
    text = _code(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + f" … ({len(text):,} characters)"


def _code(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return _array_code(value)
    if isinstance(value, np.generic):
        return f"np.{value.dtype.name}({value.item()!r})"
    if isinstance(value, StudentError):
        return f"raised {value}"
    if isinstance(value, Handle):
        return value._handle_ref.type_name.lower()
    if isinstance(value, (list, tuple)):
        items = [_code(item) for item in value[:MAX_ARRAY]]
        if len(value) > MAX_ARRAY:
            items.append("...")
        return f"[{', '.join(items)}]" if isinstance(value, list) else f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_code(key)}: {_code(item)}" for key, item in list(value.items())[:MAX_ARRAY]) + "}"
    if callable(value):
        return getattr(value, "__name__", "function").strip("<>") or "function"
    return repr(value)


def _array_code(array: np.ndarray) -> str:
    dtype = f"np.{array.dtype.name}" if array.dtype.kind != "b" else "bool"
    if array.size == 0 or (array.size > 8 and (array == array.flat[0]).all()):
        if array.size == 0 or array.flat[0] == 0:
            return f"np.zeros({array.shape}, dtype={dtype})"
        return f"np.full({array.shape}, {array.flat[0].item()!r}, dtype={dtype})"
    if array.size > MAX_ARRAY:
        head = ", ".join(repr(number) for number in array.flat[:8].tolist())
        return f"<{array.dtype} array of shape {array.shape}: {head}, ...>"
    numbers = repr(array.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({numbers}, dtype={dtype})"


def describe_calls(calls: list[CallRecord]) -> str:
    """Return the calls as lines of code, the newest last; constructors assign to the name that later calls use."""
    lines = []
    for record in calls[-MAX_CALLS:]:
        arguments = [_code(item) for item in record.args] + [f"{key}={_code(item)}" for key, item in record.kwargs.items()]
        line = f"{record.target}({', '.join(arguments)})"
        if isinstance(record.result, Handle):
            line = f"{record.result._handle_ref.type_name.lower()} = {line}"
        lines.append(line if len(line) <= MAX_TEXT else line[:MAX_TEXT] + " …")
    if len(calls) > MAX_CALLS:
        lines.insert(0, f"# … {len(calls) - MAX_CALLS} earlier calls")
    return "\n".join(lines)
