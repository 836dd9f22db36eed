"""The namespace of a notebook: runs its cells in order and describes what they raise in the student's terms."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from typing import Any

MAX_MESSAGE = 4_000
MAX_FRAMES = 12


def cell_file(number: int) -> str:
    """The file name under which cell `number` (counted from 1) is compiled; tracebacks show it."""
    return f"cell {number}"


def describe_exception(error: BaseException) -> dict[str, str]:
    """Return `kind`, `message` and a traceback cut to the student's own cells, all as bounded plain text."""
    try:
        message = str(error)[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - a hostile __str__ is the student's to write
        message = "(its message can't be shown)"
    lines = []
    for frame in traceback.extract_tb(error.__traceback__)[-200:]:
        if frame.filename.startswith("cell "):
            lines.append(f"{frame.filename}, line {frame.lineno}, in {frame.name}\n    {(frame.line or '').strip()}")
    if isinstance(error, SyntaxError) and (error.filename or "").startswith("cell "):
        lines.append(f"{error.filename}, line {error.lineno}\n    {(error.text or '').strip()}")
    return {
        "kind": type(error).__name__[:100],
        "message": message,
        "traceback": "\n".join(lines[-MAX_FRAMES:])[:MAX_MESSAGE],
    }


class NotebookNamespace:
    """The global names of one notebook, or of one module that stands in for it (reference, baseline)."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    @classmethod
    def fresh(cls) -> NotebookNamespace:
        """Make a new `__main__`, as a kernel does, and take over what the notebook's first cell imports."""
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        sys.modules["graders"].open_lab = _open_lab  # type: ignore[attr-defined]

        def get_ipython() -> Any:
            from IPython.core.interactiveshell import InteractiveShell

            return InteractiveShell.instance(user_module=module, user_ns=module.__dict__)

        module.__dict__["get_ipython"] = get_ipython
        return cls(module.__dict__)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise NameError(f"`{name}` is not defined in the notebook")
        return self._names[name]

    def values(self) -> Iterable[tuple[str, Any]]:
        """Pairs of name and value."""
        return list(self._names.items())

    def load_module(self, name: str) -> None:
        """Take the public names of an importable module."""
        module = importlib.import_module(name)
        self._names.update({key: value for key, value in vars(module).items() if not key.startswith("__")})

    def run_cells(self, cells: list[list[Any]]) -> list[dict[str, Any]]:
        """Run `[number, grade_id, source]` in order; return one description per cell that raised, and go on after it."""
        errors = []
        for number, grade_id, source in cells:
            try:
                self._run_cell(number, source)
            except BaseException as error:  # noqa: BLE001 - a cell's sys.exit() must not end the worker
                errors.append({"cell": number, "grade_id": grade_id, **describe_exception(error)})
        return errors

    def _run_cell(self, number: int, source: str) -> None:
        file = cell_file(number)
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        code = compile(_plain_python(source), file, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(code, self._names)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(result)


def _plain_python(source: str) -> str:
    """Return the cell as Python; magics and `!commands` are rewritten as IPython does."""
    try:
        ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return TransformerManager().transform_cell(source)
    return source


def _open_lab(lab: str, namespace: dict[str, Any]) -> Callable[[str], float]:
    """What a notebook's first cell gets inside the worker: checks run outside, so `check` does nothing here."""
    return lambda name: 0.0
