"""The indicative grade: the public checks on one notebook, on the student's machine or on push, without the reference."""

from __future__ import annotations

import tempfile
from pathlib import Path

import blake3

from graders.budgets import load_budgets
from graders.checks import load_checks
from graders.grade import LabKit, Progress, grade_submission
from graders.notebook import NotebookError, read
from graders.report import Report
from graders.sides import WorkerSides
from graders.submission import Submission


def check_notebook(path: Path, progress: Progress | None = None) -> Report:
    """Grade the notebook at `path` with the public checks; raise NotebookError when it can't be read or belongs to no installed lab."""
    notebook = read(path)
    lab = path.stem
    package = Path(__file__).resolve().parent
    if not (package / "labs" / lab / "checks.py").exists():
        raise NotebookError(f"{path}: there are no checks for a lab named {lab}. Keep the name that the notebook was released with.")
    folders = [path.resolve().parent, package.parent]
    budgets_path = next((each / "perf_budgets" / f"{lab}.yml" for each in folders if (each / "perf_budgets" / f"{lab}.yml").exists()), None)
    if budgets_path is None:
        raise NotebookError(f"{path}: perf_budgets/{lab}.yml is missing beside it; restore the released folder.")
    budgets = load_budgets(budgets_path)
    baseline = next(
        (each for each in (path.resolve().parent / "baseline.py", package.parent / "source" / lab / "baseline.py") if each.exists()), None
    )
    kit = LabKit(
        course="",
        lab=lab,
        source=notebook,
        budgets=budgets,
        checks=load_checks(lab, hidden=False),
        baseline=baseline,
        salt=b"indicative",
        grader="indicative",
        official=False,
    )
    sides = WorkerSides(budgets, baseline, None, Path(tempfile.gettempdir()) / "classroom-locks")
    try:
        digest = blake3.blake3(path.read_bytes()).hexdigest()
        return grade_submission(kit, Submission("you", lab, digest, notebook, None, None), sides, progress)
    finally:
        sides.close()
