"""The proof that a release tells nothing that students must not read.

Secret are the solutions, hidden tests and mark schemes of the source notebook, its outputs, the lab's `hidden.py` and `faults/`, and its
reference module. A release is built from public parts only, so a leak is a slip: a marker misspelt, a file forgotten in `source/<lab>/`,
a solution pasted into a check. The proof compares lines, with runs of white space made one blank, by these rules:

- A line is *trivial*, and no secret, when it has fewer than 12 characters other than blanks, or is an import, a `return` of a name,
  a decorator without arguments, a marker of a string's or block's end, or fewer than two words or numbers.
- A line of `baseline.py` or of the engine is public wherever it stands.
- A line that the author wrote outside the solution regions, in the README or in the public checks may recur by chance. There, only
  a copy counts: three secret lines of one solution, hidden test or reference in a row (trivial lines between them aside).
- Any other secret line is a leak wherever it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graders
from graders.course import Layout
from graders.notebook import REGIONS, NotebookError, cells, parse, read, split_regions
from graders.problems import UserProblem
from graders.public import engine_paths

MIN_CHARACTERS = 12
COPIED_LINES = 3
MAX_SENTENCES = 20
TRIVIAL = re.compile(r"(from \S+ )?import .*|return \w+|@[\w.]+|[\W_]*")
WORD = re.compile(r"\w+")
# What nbgrader's ClearSolutions writes in place of a solution.
STUBS = ("# YOUR CODE HERE", "raise NotImplementedError()", "YOUR ANSWER HERE")
ENGINE_FOLDER = Path(graders.__file__).parent
MARKERS = re.compile("|".join(f"(BEGIN|END) {region}" for region in REGIONS))


class LeakError(UserProblem):
    """A release that would leak; `sentences` name each file and line."""

    def __init__(self, lab: str, sentences: list[str]) -> None:
        self.sentences = sentences
        super().__init__(f"The release of {lab} would leak, so it was not made:\n" + "\n".join(f"- {sentence}" for sentence in sentences))


@dataclass
class _Secrets:
    """`origin`: secret line → where it comes from; `following`: a copied run's lines, each with the lines that may come next."""

    origin: dict[str, str] = field(default_factory=dict)
    following: dict[str, set[str]] = field(default_factory=dict)

    def add(self, lines: Iterable[tuple[int, str]], where: str, copies: bool) -> None:
        previous = None
        for number, text in lines:
            line = _normal(text)
            if _trivial(line):
                continue
            self.origin.setdefault(line, f"{where}, line {number}")
            if copies:
                self.following.setdefault(line, set())
                if previous is not None:
                    self.following[previous].add(line)
                previous = line


def prove_clean(root: Path, lab: str, folder: Path | None = None) -> None:
    """Raise LeakError if `folder` (by default `release/<lab>/`) holds anything that students must not read."""
    folder = folder or Layout(root).release_dir(lab)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    prove_files_clean(root, lab, files)


def prove_files_clean(root: Path, lab: str, files: dict[str, bytes]) -> None:
    """The same for a release that is not written yet: `files` maps its relative paths to their contents."""
    sentences = list(_leaks(root, lab, files))
    if sentences:
        more = len(sentences) - MAX_SENTENCES
        raise LeakError(lab, sentences[:MAX_SENTENCES] + ([f"There are {more} more."] if more > 0 else []))


def _leaks(root: Path, lab: str, files: dict[str, bytes]) -> Iterator[str]:
    secrets = _secrets(root, lab)
    public = set(_public_lines(root, lab))
    own = _authored_lines(root, lab)
    engine = {f"graders/{path}": (ENGINE_FOLDER / path).read_bytes() for path in engine_paths()}
    for path, data in files.items():
        shown = f"release/{lab}/{path}"
        if {"hidden.py", "faults", "reference", "source"} & set(path.split("/")):
            yield f"{shown}: a file of this name is never shipped."
        if engine.get(path) == data:
            continue
        if path.startswith("perf_budgets/") and b"reference." in data:
            line = data[: data.index(b"reference.")].count(b"\n") + 1
            yield f"{shown}, line {line}: names a module of the reference."
        for block in _blocks(path, data):
            yield from _copied(block, secrets, public, own, shown)
        if path.endswith(".ipynb"):
            yield from _notebook_leaks(path, data, shown)


def _copied(block: _Block, secrets: _Secrets, public: set[str], own: set[str], shown: str) -> Iterator[str]:
    """Yield a sentence for each secret line in one text that is neither public nor a chance recurrence."""
    run: list[tuple[int, str]] = []
    for number, text in block.lines:
        line = _normal(text)
        if _trivial(line):
            continue
        if line in secrets.origin and line not in public and line not in own:
            yield f"{shown}, {block.where}line {number}: stands in {secrets.origin[line]}, which is secret: {line[:80]!r}."
        continues = bool(run) and line in secrets.following.get(run[-1][1], ())
        run = [*run, (number, line)] if continues else [(number, line)] if line in secrets.following and line not in public else []
        if len(run) == COPIED_LINES:
            first, start = run[0]
            yield f"{shown}, {block.where}line {first}: {COPIED_LINES} lines in a row stand in {secrets.origin[start]}, which is secret."


@dataclass(frozen=True)
class _Block:
    """A text of a release file; `where` says which part of the file it is, e.g. "cell 5, "."""

    where: str
    lines: list[tuple[int, str]]


def _numbered(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.split("\n"), start=1))


def _blocks(path: str, data: bytes) -> Iterator[_Block]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    if not path.endswith(".ipynb"):
        yield _Block("", _numbered(text))
        return
    try:
        notebook = json.loads(text)
        listed = cells(parse(data, path))
    except (NotebookError, ValueError):
        yield _Block("", _numbered(text))
        return
    for cell in listed:
        yield _Block(f"cell {cell.number}, ", _numbered(cell.source))
    for number, node in enumerate(notebook["cells"], start=1):
        rest = {key: value for key, value in node.items() if key != "source"}
        yield _Block(f"cell {number} beside its source, ", _numbered("\n".join(_strings(rest))))
    yield _Block("metadata, ", _numbered("\n".join(_strings(notebook.get("metadata")))))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)


def _notebook_leaks(path: str, data: bytes, shown: str) -> Iterator[str]:
    try:
        notebook = parse(data, path)
    except NotebookError as error:
        yield f"{shown}: can't be read, so it can't be proven clean ({error})"
        return
    for cell, node in zip(cells(notebook), notebook["cells"], strict=True):
        if node.get("outputs"):
            yield f"{shown}, cell {cell.number}: has an output."
        if node.get("execution_count") is not None:
            yield f"{shown}, cell {cell.number}: has an execution count."
        for number, line in _numbered(cell.source):
            if MARKERS.search(line):
                yield f"{shown}, cell {cell.number}, line {number}: still holds the marker {line.strip()[:60]!r}."


def _secrets(root: Path, lab: str) -> _Secrets:
    secrets = _Secrets()
    layout = Layout(root)
    source = read(layout.source_notebook(lab))
    for cell, node in zip(cells(source), source["cells"], strict=True):
        where = f"source/{lab}/{lab}.ipynb, cell {cell.number}"
        regions = split_regions(cell.source)[1]
        # nbgrader replaces a whole solution cell when it has no region in it.
        for region in regions or ([_numbered(cell.source)] if cell.kind in ("solution", "manual") else []):
            secrets.add(region, where, copies=True)
        secrets.add(_numbered("\n".join(_strings(node.get("outputs")))), f"an output of {where}", copies=False)
    checks = layout.checks_dir(lab)
    hidden = [checks / "hidden.py", *sorted((checks / "hidden").rglob("*.py"))]
    for path in [*hidden, *sorted((checks / "faults").rglob("*"))]:
        if path.is_file() and path.suffix not in (".pyc",):
            _add_file(secrets, path, root, copies=False)
    for path in _reference_files(root, lab):
        _add_file(secrets, path, root, copies=True)
    return secrets


def _add_file(secrets: _Secrets, path: Path, root: Path, copies: bool) -> None:
    secrets.add(_numbered(path.read_text(encoding="utf-8", errors="replace")), path.relative_to(root).as_posix(), copies)


def _reference_files(root: Path, lab: str) -> list[Path]:
    """The module that the lab's budgets name, with all of its package when it is one (but for `reference` itself)."""
    from graders.budgets import load_budgets

    path = Layout(root).budgets(lab)
    name = load_budgets(path).reference if path.exists() else None
    if name is None:
        return []
    parts = name.split(".")
    module = root.joinpath(*parts)
    package = module if module.is_dir() else module.parent if len(parts) > 2 else None
    if package is not None:
        return sorted(package.rglob("*.py"))
    return [module.with_suffix(".py")] if module.with_suffix(".py").is_file() else []


def _public_lines(root: Path, lab: str) -> Iterator[str]:
    yield from STUBS
    for path in [Layout(root).baseline(lab), *(ENGINE_FOLDER / name for name in engine_paths())]:
        if path.is_file():
            yield from map(_normal, path.read_text(encoding="utf-8").split("\n"))


def _authored_lines(root: Path, lab: str) -> set[str]:
    """The lines that the author shows on purpose: the notebook outside the regions, the README and the public checks."""
    layout = Layout(root)
    lines: set[str] = set()
    for cell in cells(read(layout.source_notebook(lab))):
        public, regions = split_regions(cell.source)
        if regions or cell.kind not in ("solution", "manual"):
            lines.update(_normal(line) for _, line in public)
    files = [layout.source_dir(lab) / "README.md", *layout.checks_dir(lab).glob("*.py")]
    for path in files:
        if path.is_file() and path.name != "hidden.py":
            lines.update(_normal(line) for line in path.read_text(encoding="utf-8").split("\n"))
    return lines


def _normal(line: str) -> str:
    return " ".join(line.split())


def _trivial(line: str) -> bool:
    short = len(line.replace(" ", "")) < MIN_CHARACTERS
    return short or TRIVIAL.fullmatch(line) is not None or len(WORD.findall(line)) < 2
