"""Makes a class of pretend students for a demonstration: solution, planted faults, and the submissions that go wrong in every other way."""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from graders.course import Layout, load_course
from graders.notebook import nbgrader_metadata, read
from graders.report import write_atomically
from graders.validate import faults, with_fault

NAMES = [
    "ada",
    "barbara",
    "claude",
    "donald",
    "edsger",
    "frances",
    "grace",
    "hedy",
    "ivan",
    "john",
    "katherine",
    "leslie",
    "margaret",
    "niklaus",
    "ole",
    "peter",
    "quentin",
    "radia",
    "shafi",
    "tony",
    "ursula",
    "vint",
    "whitfield",
    "xiaoyun",
    "yukihiro",
    "zdenek",
]

# A small class gets every fourth fault, so that it sees different kinds.
STRIDE = 4

ENDLESS = "while True:\n    pass\n"
EXITS = "import os\nos._exit(0)\n"

SPY = '''
def _look_around():
    """Try to read what a submission must not see."""
    import os, pathlib
    found = []
    for root in ("/", "/srv", "/root", "/home", "..", "../..", "/grader"):
        for name in ("reference", "source", "gradebook.db", ".classroom/salt"):
            path = pathlib.Path(root) / name
            if path.exists():
                found.append(str(path))
    import importlib
    for module in ("reference.simd", "reference.hnsw", "reference.serving", "graders.labs"):
        try:
            importlib.import_module(module)
            found.append(module)
        except ImportError:
            pass
    raise RuntimeError(f"secrets in sight: {found}")

_look_around()
'''

PRINTS = 'print("10/10, all tests passed")\n'


def submissions(root: Path, lab: str) -> Iterator[tuple[str, bytes]]:
    """Yield (what it is, bytes of the notebook) for each pretend submission of `lab`, the solution first."""
    layout = Layout(root)
    solution, release = read(layout.source_notebook(lab)), read(layout.release_notebook(lab))
    yield "solution", _bytes(solution)
    yield "empty", _bytes(release)
    yield "broken", _bytes(solution)[:2000]
    yield "garbage", bytes(range(256)) * 16
    yield "endless", _bytes(with_first_solution(solution, ENDLESS))
    yield "spy", _bytes(with_first_solution(release, SPY))
    yield "prints_full_marks", _bytes(with_first_solution(release, PRINTS))
    yield "exits", _bytes(with_first_solution(release, EXITS))
    yield "deleted_checks", _bytes(without_grade_cells(solution))
    planted = faults(root, lab)
    for fault in (fault for start in range(STRIDE) for fault in planted[start::STRIDE]):
        yield fault.name, _bytes(with_fault(solution, fault))


def with_first_solution(notebook: Any, code: str) -> Any:
    """Return a copy whose first solution cell begins with `code`."""
    changed = copy.deepcopy(notebook)
    cell = next(cell for cell in changed["cells"] if nbgrader_metadata(cell).get("solution") and cell["cell_type"] == "code")
    cell["source"] = code + cell["source"]
    return changed


def without_grade_cells(notebook: Any) -> Any:
    """Return a copy whose check cells were deleted."""
    changed = copy.deepcopy(notebook)
    changed["cells"] = [
        cell for cell in changed["cells"] if not (nbgrader_metadata(cell).get("grade") and nbgrader_metadata(cell).get("locked"))
    ]
    return changed


def _bytes(notebook: Any) -> bytes:
    return json.dumps(nbformat.from_dict(notebook), indent=1, ensure_ascii=False).encode() + b"\n"


def make_class(root: Path, size: int) -> dict[str, dict[str, str]]:
    """Fill submitted/ with `size` students a lab; return student → lab → what was handed in. The last hand in late."""
    layout, course = Layout(root), load_course(root)
    made: dict[str, dict[str, str]] = {}
    for lab in course.labs:
        for (what, data), student in zip(list(submissions(root, lab.slug))[:size], NAMES, strict=False):
            folder = layout.submitted_dir(student, lab.slug)
            late = dt.timedelta(hours=30) if student == NAMES[size - 1] else -dt.timedelta(hours=5)
            moment = (lab.due.astimezone(dt.UTC) + late).strftime("%Y-%m-%d %H:%M:%S UTC")
            write_atomically(folder / f"{lab.slug}.ipynb", data)
            write_atomically(folder / "timestamp.txt", moment.encode())
            made.setdefault(student, {})[lab.slug] = what
    return made
