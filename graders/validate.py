"""Proves a lab: the solution earns full marks, the empty release nothing, and each planted fault fails exactly the checks it should."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graders.cohort import official
from graders.course import Layout
from graders.grade import LabKit, grade_submission
from graders.notebook import nbgrader_metadata, read
from graders.problems import UserProblem
from graders.report import Report
from graders.submission import Submission

SECTION = re.compile(r"^# %% ([A-Za-z0-9_\-]+)\s*$", re.M)


class FaultError(UserProblem):
    """A planted fault whose file can't be used; the message names it."""


@dataclass(frozen=True)
class Fault:
    """A planted fault: a small wrong or slow solution. `cells` replaces solution cells by grade id; `fails` are the checks it must fail."""

    name: str
    sentence: str
    fails: frozenset[str]
    cells: dict[str, str]


@dataclass(frozen=True)
class Proof:
    """The outcome of one validation: `problems` is empty when the subject did what it should."""

    lab: str
    subject: str
    report: Report
    problems: list[str]


def read_fault(path: Path) -> Fault:
    """Read a fault file: docstring, `FAILS = {...}`, then sections `# %% <grade_id>`. Raises FaultError."""
    text = path.read_text()
    pieces = SECTION.split(text)
    try:
        module = ast.parse(pieces[0])
        fails = next(
            ast.literal_eval(node.value)
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "FAILS"
        )
    except (SyntaxError, StopIteration, ValueError) as error:
        raise FaultError(f"{path}: the part before the first `# %%` needs a docstring and FAILS = {{check names}} ({error}).") from None
    sentence = ast.get_docstring(module)
    if not sentence or not fails or len(pieces) < 3:
        raise FaultError(f"{path}: a fault needs a docstring, at least one check in FAILS and at least one `# %% <grade_id>` section.")
    return Fault(path.stem, sentence, frozenset(fails), dict(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True)))


def faults(root: Path, lab: str) -> list[Fault]:
    """All planted faults of a lab, by name."""
    return [read_fault(path) for path in sorted((Layout(root).checks_dir(lab) / "faults").glob("*.py")) if path.stem != "__init__"]


def with_fault(source: Any, fault: Fault) -> Any:
    """Return the solution notebook with the fault's cells in place; raise FaultError for a grade id that isn't a solution cell."""
    notebook = copy.deepcopy(source)
    left = dict(fault.cells)
    for cell in notebook["cells"]:
        metadata = nbgrader_metadata(cell)
        if metadata.get("solution") and metadata["grade_id"] in left:
            cell["source"] = left.pop(metadata["grade_id"])
    if left:
        raise FaultError(f"the fault {fault.name} replaces `{next(iter(left))}`, which is not a solution cell of the notebook")
    return notebook


def prove_lab(root: Path, lab: str, only: str | None = None) -> Iterator[Proof]:
    """Grade solution, release and every fault (or `only` one of them), and say for each what is wrong with the outcome."""
    kit, sides = official(root, lab)
    planted = faults(root, lab)
    for fault in planted:
        unknown = fault.fails - kit.checks.keys()
        if unknown:
            raise FaultError(f"the fault {fault.name} of {lab} names `{min(unknown)}`, which is not a check")
    subjects: dict[str, tuple[Callable[[], Any], Callable[[Report], list[str]]]] = {
        "solution": (lambda: kit.source, _not_full),
        "release": (lambda: read(Layout(root).release_notebook(lab)), _not_empty),
    }
    for fault in planted:
        subjects[fault.name] = (partial(with_fault, kit.source, fault), partial(_not_exactly, fault=fault, kit=kit))
    for subject, (notebook, judge) in subjects.items():
        if only in (None, subject):
            yield _proof(kit, sides, subject, notebook(), judge)


def _proof(kit: LabKit, sides: Any, subject: str, notebook: Any, judge: Any) -> Proof:
    report = grade_submission(kit, Submission(f"validate-{subject}", kit.lab, "", notebook, None, None), sides)
    problems = [f"{check.name}: the grader's own error: {check.message}" for check in report.checks if check.outcome == "error"]
    return Proof(kit.lab, subject, report, problems + judge(report))


def _not_full(report: Report) -> list[str]:
    return [f"{check.name}: {check.outcome}, should pass. {check.message}" for check in report.checks if check.outcome != "pass"] + [
        f"cell {error.cell}: {error.message}" for error in report.cell_errors
    ]


def _not_empty(report: Report) -> list[str]:
    return [f"{check.name}: earned {check.points:g} points, should earn none" for check in report.checks if check.points > 0]


def _not_exactly(report: Report, fault: Fault, kit: LabKit) -> list[str]:
    outcomes = {check.name: check.outcome for check in report.checks}
    failed = {name for name, outcome in outcomes.items() if outcome in ("fail", "partial")}
    waiting = {name for name, outcome in outcomes.items() if outcome == "not_run"}
    problems = [f"{name}: {outcomes.get(name, 'absent')}, should fail" for name in sorted(fault.fails - failed)]
    for check in report.checks:
        if check.name in failed - fault.fails:
            problems.append(f"{check.name}: fails but should not. {check.message}")
    for name in sorted(waiting):
        if not set(kit.checks[name].after) & (failed | waiting):
            problems.append(f"{name}: was not run, and none of its prerequisites failed")
    return problems
