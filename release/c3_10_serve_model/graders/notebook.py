"""Notebooks as the course reads them: the kinds of cell, the checks that they name, and a submission set right.

Nothing here runs or imports anything that a notebook holds, and nbformat is imported only where a notebook is parsed.
`restore` is the one place that compares a submission with the trusted source notebook; grading and the gradebook both build on it.
"""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graders.problems import UserProblem

Kind = Literal["solution", "grade", "manual", "readonly", "demo", "text", "free"]
LOCKED: frozenset[Kind] = frozenset({"grade", "readonly"})
CELL_TYPES = ("code", "markdown", "raw")
MAX_SENTENCES = 50
MAX_DEPTH = 64
REGIONS = ("SOLUTION", "HIDDEN TESTS", "MARK SCHEME")


class NotebookError(UserProblem):
    """A notebook that can't be used; the message says which file (and cell) and what is wrong."""


@dataclass(frozen=True)
class Cell:
    """One cell, read-only. `number` counts from 1; `grade_id` and `points` are None where the cell carries none."""

    number: int
    id: str
    cell_type: str
    kind: Kind
    grade_id: str | None
    points: float | None
    source: str


@dataclass(frozen=True)
class GradeCell:
    """A cell that a check fills with points. `check` is the name in its last line, `check("name")`, and equals `grade_id`."""

    grade_id: str
    points: float
    check: str


@dataclass(frozen=True)
class RestoredCell:
    """A cell of a restored submission and the trusted cell that it stands for (None: the student's own).

    `number` is its place in the submission, counted from 1; a cell that was put back has the number of the cell before it.
    """

    number: int
    node: Any
    trusted: Cell | None
    put_back: bool = False


@dataclass(frozen=True)
class Restored:
    """A submission with its locked cells as released. `tampering` holds one sentence for each change that a TA should know of."""

    notebook: Any
    cells: list[RestoredCell]
    tampering: list[str]


def read(path: Path) -> Any:
    """Read a notebook file (nbformat 4) into an `nbformat.NotebookNode`; raise NotebookError if it is not one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotebookError(f"{path}: can't be read ({error.strerror}).") from None
    return parse(data, str(path))


def parse(data: bytes, name: str) -> Any:
    """Parse the bytes of a notebook; `name` is the file that error messages speak of.

    Raises NotebookError. Duplicate JSON keys, NaN, lone surrogates and nesting beyond 64 levels are refused: later steps would
    disagree about them, or break.
    """
    from nbformat import from_dict

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise NotebookError(f"{name}: not a notebook: byte {error.start} is not UTF-8.") from None
    except RecursionError:
        raise NotebookError(f"{name}: not a notebook: its JSON is nested too deeply.") from None
    except ValueError as error:
        raise NotebookError(f"{name}: not a notebook: {error}.") from None
    _check_depth(content, name)
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise NotebookError(f"{name}: holds half of a Unicode surrogate pair, which no file can store as text.") from None
    _check_structure(content, name)
    for cell in content["cells"]:
        if isinstance(cell["source"], list):
            cell["source"] = "".join(cell["source"])
    return from_dict(content)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the JSON key {key[:60]!r} stands twice in one object")
    return content


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _check_depth(content: Any, name: str) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise NotebookError(f"{name}: not a notebook: its JSON is nested too deeply.")
        inner = [value for node in level for value in (node.values() if isinstance(node, dict) else node)]
        level = [value for value in inner if isinstance(value, (dict, list))]


def _check_structure(content: Any, name: str) -> None:
    version = content.get("nbformat") if isinstance(content, dict) else None
    if version in (1, 2, 3):
        raise NotebookError(f"{name}: written in notebook format {version}; save it again with Jupyter 4 or later.")
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise NotebookError(f"{name}: not a notebook: it has no list of cells.")
    if version != 4 or type(content.setdefault("nbformat_minor", 4)) is not int:
        found = f"{version!r}.{content.get('nbformat_minor')!r}"[:60]
        raise NotebookError(f"{name}: notebook format {found} is not supported; save it as format 4.")
    if not isinstance(content.setdefault("metadata", {}), dict):
        raise NotebookError(f"{name}: the notebook's metadata is not a JSON object.")
    for number, cell in enumerate(content["cells"], start=1):
        problem = _cell_problem(cell)
        if problem:
            raise NotebookError(f"{name}: cell {number} {problem}.")


def _cell_problem(cell: Any) -> str | None:
    if not isinstance(cell, dict):
        return "is not a JSON object"
    if cell.get("cell_type") not in CELL_TYPES:
        return f"has the type {str(cell.get('cell_type'))[:40]!r}; only code, markdown and raw exist"
    source = cell.get("source")
    if not (isinstance(source, str) or (isinstance(source, list) and all(isinstance(line, str) for line in source))):
        return "has no text as its source"
    if not isinstance(cell.setdefault("metadata", {}), dict):
        return "has metadata that is not a JSON object"
    if not isinstance(cell.get("id", ""), str):
        return "has an id that is not text"
    return None


def nbgrader_metadata(node: Any) -> dict[str, Any]:
    """Return a cell's nbgrader metadata, or an empty dict where there is none that nbgrader could use."""
    metadata = node["metadata"].get("nbgrader")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("grade_id"), str) or not metadata["grade_id"]:
        return {}
    return metadata


def cells(notebook: Any) -> list[Cell]:
    """Return a view of each cell, in order. Metadata of the wrong shape counts as absent."""
    return [_view(number, node) for number, node in enumerate(notebook["cells"], start=1)]


def _view(number: int, node: Any) -> Cell:
    metadata = nbgrader_metadata(node)
    return Cell(
        number=number,
        id=node.get("id", ""),
        cell_type=node["cell_type"],
        kind=_kind(node, metadata),
        grade_id=metadata.get("grade_id"),
        points=_points_in(metadata),
        source=node["source"],
    )


def _points_in(metadata: dict[str, Any]) -> float | None:
    points = metadata.get("points")
    if not metadata.get("grade") or isinstance(points, bool) or not isinstance(points, (int, float)):
        return None
    try:
        return float(points)
    except OverflowError:
        return None


def _kind(node: Any, metadata: dict[str, Any]) -> Kind:
    grade, solution = bool(metadata.get("grade")), bool(metadata.get("solution"))
    if (grade and solution) or metadata.get("task"):
        return "manual"
    if grade:
        return "grade"
    if solution:
        return "solution"
    if metadata.get("locked"):
        return "readonly"
    tags = node["metadata"].get("tags")
    if isinstance(tags, list) and "demo" in tags:
        return "demo"
    return "free" if node["cell_type"] == "code" else "text"


def grade_cells(notebook: Any, name: str = "the notebook") -> list[GradeCell]:
    """Return the cells that checks fill, in order.

    Raises NotebookError when a grade id stands twice, a cell has no points, or its last line is not `check("<its grade id>")`.
    `name` is the file that messages speak of.
    """
    views = cells(notebook)
    _refuse_duplicates(views, name)
    return [GradeCell(cell.grade_id or "", _points(cell, name), _check_name(cell, name)) for cell in views if cell.kind == "grade"]


def manual_cells(notebook: Any, name: str = "the notebook") -> list[Cell]:
    """Return the cells that a TA grades, in order; raise NotebookError as `grade_cells` does."""
    views = cells(notebook)
    _refuse_duplicates(views, name)
    manual = [cell for cell in views if cell.kind == "manual"]
    for cell in manual:
        _points(cell, name)
    return manual


def _refuse_duplicates(views: list[Cell], name: str) -> None:
    first: dict[str, int] = {}
    for cell in views:
        if cell.grade_id is not None and first.setdefault(cell.grade_id, cell.number) != cell.number:
            raise NotebookError(f"{name}: cells {first[cell.grade_id]} and {cell.number} have the same grade id `{cell.grade_id}`.")


def _points(cell: Cell, name: str) -> float:
    if cell.points is None or not 0 <= cell.points < float("inf"):
        raise NotebookError(f"{name}: cell {cell.number} (`{cell.grade_id}`) is graded but has no points (a number of 0 or more).")
    return cell.points


def _check_name(cell: Cell, name: str) -> str:
    where = f"{name}: cell {cell.number} (`{cell.grade_id}`)"
    try:
        body = ast.parse(cell.source).body
    except SyntaxError as error:
        raise NotebookError(f"{where} is not valid Python: {error.msg}, line {error.lineno}.") from None
    match body[-1] if body else None:
        case ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=str(check))], keywords=[])):
            if check != cell.grade_id:
                raise NotebookError(f'{where} runs check("{check}"); the check\'s name and the grade id must be equal.')
            return check
    raise NotebookError(f'{where} must end in the line check("{cell.grade_id}").')


def split_regions(source: str) -> tuple[list[tuple[int, str]], list[list[tuple[int, str]]]]:
    """Split a cell's text at nbgrader's markers: (lines outside any region, one list of lines per secret region).

    Lines are (number from 1, text); the marker lines belong to neither. Secret are SOLUTION, HIDDEN TESTS and MARK SCHEME.
    """
    public: list[tuple[int, str]] = []
    secret: list[list[tuple[int, str]]] = []
    inside = False
    for number, line in enumerate(source.split("\n"), start=1):
        if any(f"BEGIN {region}" in line for region in REGIONS):
            inside = True
            secret.append([])
        elif any(f"END {region}" in line for region in REGIONS):
            inside = False
        else:
            (secret[-1] if inside else public).append((number, line))
    return public, secret


def restore(submitted: Any, source: Any) -> Restored:
    """Return a copy of `submitted` whose locked cells are those of the trusted notebook `source`.

    Cells are recognised by grade id, else by cell id, else (locked and demo cells) by their text. Locked cells get the trusted text,
    type, flags and points; missing ones are put back after the cell that they followed. A missing question comes back empty.
    nbgrader metadata that the source doesn't know is dropped.
    """
    notebook = copy.deepcopy(submitted)
    trusted = {cell.number: cell for cell in cells(source) if cell.kind not in ("text", "free")}
    views = cells(notebook)
    sentences: list[str] = []
    standing = _recognise(views, list(trusted.values()), sentences)
    restored = []
    for view, node in zip(views, notebook["cells"], strict=True):
        original = standing.get(view.number)
        if original is None or original.grade_id is None:
            node["metadata"].pop("nbgrader", None)
        else:
            sentences.extend(_restore_cell(view, node, original, source["cells"][original.number - 1]))
        restored.append(RestoredCell(view.number, node, original))
    _put_back(restored, trusted, source, sentences)
    notebook["cells"] = [cell.node for cell in restored]
    if len(sentences) > MAX_SENTENCES:
        sentences[MAX_SENTENCES:] = [f"There are {len(sentences) - MAX_SENTENCES} more changes like these."]
    return Restored(notebook, restored, sentences)


def code_to_run(submitted: Any, source: Any) -> tuple[list[tuple[int, str | None, str]], list[str]]:
    """Return what a grading worker executes, `(cell number, grade id, code)` in order, and the sentences about tampering.

    That is every code cell of the restored submission but its check cells and the demo cells of the trusted notebook `source`; a
    student can tag no cell out. The number is the cell's place in the submission, counted from 1.
    """
    restored = restore(submitted, source)
    code = [
        (cell.number, cell.trusted.grade_id if cell.trusted else None, cell.node["source"])
        for cell in restored.cells
        if cell.node["cell_type"] == "code" and not (cell.trusted and cell.trusted.kind in ("grade", "demo"))
    ]
    return code, restored.tampering


def _recognise(views: list[Cell], trusted: list[Cell], sentences: list[str]) -> dict[int, Cell]:
    """Map the number of a submitted cell to the trusted cell that it stands for; each trusted nbgrader cell is claimed once."""
    standing: dict[int, Cell] = {}
    by_grade_id: dict[str, list[Cell]] = {}
    for view in views:
        if view.grade_id is not None:
            by_grade_id.setdefault(view.grade_id, []).append(view)
    known = {cell.grade_id for cell in trusted}
    for grade_id, claimants in by_grade_id.items():
        if grade_id not in known:
            sentences.extend(
                f"Cell {view.number} carries the grade id `{grade_id[:60]}`, which the released notebook doesn't have; "
                "it was taken as an ordinary cell."
                for view in claimants
            )
    for cell in trusted:
        claimants = by_grade_id.get(cell.grade_id, []) if cell.grade_id else []
        if claimants:
            # Copies come after the original in the ways that people copy cells, but the cell id tells for sure.
            chosen = next((view for view in claimants if view.id and view.id == cell.id), claimants[-1])
            standing[chosen.number] = cell
            sentences.extend(
                f"Cell {view.number} repeats the grade id `{cell.grade_id}` of cell {chosen.number}; it was taken as an ordinary cell."
                for view in claimants
                if view is not chosen
            )
    claimed = {cell.number for cell in standing.values()}
    for cell in trusted:
        if cell.number not in claimed:
            for view in _lookalikes(cell, views, standing):
                standing[view.number] = cell
                if cell.grade_id is not None:
                    sentences.append(f"Cell {view.number} had lost its nbgrader metadata; it was recognised as `{cell.grade_id}`.")
                    break
    return standing


def _lookalikes(cell: Cell, views: list[Cell], standing: dict[int, Cell]) -> Iterator[Cell]:
    """Yield the unclaimed cells with the trusted cell's id, then those with its text (a demo cell may have several)."""
    by_text = cell.kind in LOCKED or cell.kind == "demo"
    for same in (lambda view: view.id and view.id == cell.id, lambda view: by_text and _same_text(view.source, cell.source)):
        for view in views:
            if view.number not in standing and view.grade_id is None and same(view):
                yield view


def _same_text(submitted: str, source: str) -> bool:
    released = "\n".join(line for _, line in split_regions(source)[0])
    return [line.rstrip() for line in submitted.strip().split("\n")] == [line.rstrip() for line in released.strip().split("\n")]


def _restore_cell(view: Cell, node: Any, original: Cell, source_node: Any) -> list[str]:
    """Set one submitted cell right in place; return the sentences about what was wrong."""
    found = []
    where = f"Cell {view.number} (`{original.grade_id}`)"
    if node["cell_type"] != original.cell_type:
        found.append(f"{where} was turned into {node['cell_type']}; it was read as {original.cell_type} again.")
        _retype(node, original.cell_type)
    if original.kind in LOCKED:
        if not _same_text(view.source, original.source):
            found.append(f"{where} was changed; the released text was used instead.")
        node["source"] = original.source
    if view.grade_id is not None and view.points != original.points:
        found.append(f"{where}: its points were changed from {original.points:g} to {_number(view.points)}; the released points count.")
    if view.grade_id is not None and view.kind != original.kind:
        found.append(f"{where}: its nbgrader metadata was changed; the released metadata was used instead.")
    node["metadata"]["nbgrader"] = copy.deepcopy(source_node["metadata"]["nbgrader"])
    return found


def _number(points: float | None) -> str:
    return "nothing" if points is None else f"{points:g}"


def _retype(node: Any, cell_type: str) -> None:
    node["cell_type"] = cell_type
    if cell_type == "code":
        node["outputs"], node["execution_count"] = [], None
    else:
        node.pop("outputs", None)
        node.pop("execution_count", None)


MISSING = {
    "grade": "The check cell `{}` was deleted; it was put back.",
    "readonly": "The read-only cell `{}` was deleted; it was put back.",
    "manual": "The question `{}` was deleted; it counts as unanswered.",
    "solution": "The solution cell `{}` was deleted.",
}


def _put_back(restored: list[RestoredCell], trusted: dict[int, Cell], source: Any, sentences: list[str]) -> None:
    present = {cell.trusted.number for cell in restored if cell.trusted}
    ids = {cell.node.get("id") for cell in restored}
    for number, original in trusted.items():
        if number in present or original.kind == "demo":
            continue
        sentences.append(MISSING[original.kind].format(original.grade_id))
        if original.kind == "solution":
            continue
        node = copy.deepcopy(source["cells"][number - 1])
        if original.kind == "manual":
            node["source"] = ""
        if node["cell_type"] == "code":
            node["outputs"], node["execution_count"] = [], None
        if node.get("id") in ids:
            node["id"] = f"{node['id'][:50]}-restored"
        before = [place for place, cell in enumerate(restored) if cell.trusted and cell.trusted.number < number]
        # Not the last such cell in the submission but the nearest in the source: a student may have moved cells.
        place = max(before, key=lambda place: restored[place].trusted.number) + 1 if before else 0  # type: ignore[union-attr]
        restored.insert(place, RestoredCell(restored[place - 1].number if place else 0, node, original, put_back=True))
        present.add(number)
