"""The steps that this course adds to nbgrader's own: what a release ships besides the notebook, and scores taken from the report.

`nbgrader_config.py` names these classes in nbgrader's preprocessor lists, so that its command line, its Formgrader and this package's
own commands do the same. Importing this module imports nbgrader (seconds): do it inside the function that needs it.
"""

from __future__ import annotations

import html
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_output
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties, NbGraderPreprocessor
from nbgrader.utils import determine_grade, find_all_files, is_grade, is_solution
from traitlets.config import Config, PyFileConfigLoader

from graders.course import Layout, load_course
from graders.leaks import prove_files_clean
from graders.notebook import read, restore
from graders.problems import UserProblem
from graders.public import public_files
from graders.report import CheckResult, Report

CONFIG_FILE = "nbgrader_config.py"
CELL_METADATA = ("nbgrader", "tags", "deletable", "editable", "slideshow")
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
MAX_MESSAGE = 2_000
SYMBOLS = {"pass": "✓", "partial": "◐", "fail": "✗", "error": "⚠", "not_run": "–"}
OUTCOMES = {"pass": "passed", "partial": "partial credit", "fail": "failed", "error": "the grader's own error", "not_run": "not run"}


class BridgeError(UserProblem):
    """nbgrader's records and the course's disagree, or a submission can't be handed to nbgrader; the message is a sentence."""


def load_config(root: Path) -> Config:
    """Return nbgrader's configuration of the course at `root`, as its command line run there would load it."""
    path = root / CONFIG_FILE
    if not path.is_file():
        raise BridgeError(f"{path}: is missing; without it nbgrader would run students' code as you.")
    find_alembic()
    config = PyFileConfigLoader(CONFIG_FILE, path=str(root)).load_config()
    config.CourseDirectory.root = str(root.resolve())
    return config


def find_alembic() -> None:
    """Put Python's own folder on PATH unless `alembic` is there: nbgrader asks that program for the version of a new gradebook."""
    if shutil.which("alembic") is None:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def silent_logger() -> logging.Logger:
    """A logger for nbgrader's converters that prints nothing: what matters of their messages is raised as a sentence."""
    logger = logging.getLogger("graders.nbgrader")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def resources_for(coursedir: CourseDirectory, student: str, lab: str) -> dict[str, Any]:
    """Return the resources that nbgrader's preprocessors expect of a converter, for the lab's one notebook."""
    names = {"student": student, "assignment": lab, "notebook": lab, "db_url": coursedir.db_url, "root": coursedir.root}
    return {"unique_key": lab, "nbgrader": names}


def _root(resources: Any) -> Path:
    # A converter gives no root, but works in it.
    return Path(resources["nbgrader"].get("root") or os.getcwd())


class StableMetadata(NbGraderPreprocessor):
    """Drops what editors and kernels leave in a notebook's metadata, so that a release depends on its source's text alone."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        nb.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
        for cell in nb.cells:
            cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata})
        return nb, resources


class ShipPublicFiles(NbGraderPreprocessor):
    """Hands the public engine, checks and budgets to nbconvert's FilesWriter, which writes `resources["outputs"]` beside the notebook."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        files = public_files(_root(resources), resources["nbgrader"]["assignment"])
        resources["outputs"] = {**(resources.get("outputs") or {}), **files}
        return nb, resources


class ProveClean(NbGraderPreprocessor):
    """Refuses a release that would leak, before it is written; stands last. nbgrader then removes the folder that it began."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        root, lab = _root(resources), resources["nbgrader"]["assignment"]
        source = Layout(root).source_dir(lab)
        ignored = [*CourseDirectory(config=self.config).ignore, "*.ipynb"]
        files = {Path(path).relative_to(source).as_posix(): Path(path).read_bytes() for path in find_all_files(str(source), ignored)}
        files |= resources.get("outputs") or {}
        files[f"{resources['nbgrader']['notebook']}.ipynb"] = nbformat.writes(nb).encode()
        prove_files_clean(root, lab, files)
        return nb, resources


class RefuseLinks(NbGraderPreprocessor):
    """Refuses a submission that holds a link; stands first. nbgrader has followed it by then, and removes what it copied."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        names = resources["nbgrader"]
        folder = Layout(_root(resources)).submitted_dir(names["student"], names["assignment"])
        for path in [folder, *folder.rglob("*")]:
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BridgeError(f"{path}: is a link or no regular file; a submission may hold regular files only.")
        return nb, resources


class RestoreCells(NbGraderPreprocessor):
    """Sets the submission's locked cells right and puts deleted ones back at their place; see `graders.notebook.restore`."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        names = resources["nbgrader"]
        restored = restore(nb, read(Layout(_root(resources)).source_notebook(names["notebook"])))
        questions = [cell for cell in restored.cells if cell.put_back and cell.trusted and cell.trusted.kind == "manual"]
        if questions:
            # The released text, so that nbgrader sees an unanswered question.
            with Gradebook(names["db_url"]) as gradebook:
                for cell in questions:
                    grade_id = cell.node.metadata.nbgrader.grade_id
                    cell.node.source = gradebook.find_source_cell(grade_id, names["notebook"], names["assignment"]).source
        return restored.notebook, resources


def report_of(resources: Any) -> Report:
    """Return the report of the submission that `resources` name, grading it if there is no fresh one.

    Raises CourseError where this machine's sandbox is weaker than the course demands.
    """
    names = resources["nbgrader"]
    if "report" not in names:
        from graders.cohort import report_for, require_isolation

        require_isolation(load_course(_root(resources)))
        names["report"] = report_for(_root(resources), names["student"], names["assignment"]).report
    return names["report"]


class EngineExecute(NbGraderPreprocessor):
    """Stands in for nbgrader's Execute: writes the report's points into the grade cells. No code of the submission runs here."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        fill_outputs(nb, report_of(resources))
        return nb, resources


class AssignReportPenalty(AssignLatePenalties):
    """Records the report's late penalty, a fraction, as points of the notebook's present score (manual scores included)."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        names = resources["nbgrader"]
        fraction = report_of(resources).late_penalty
        with Gradebook(names["db_url"]) as gradebook:
            notebook = gradebook.find_submission_notebook(names["notebook"], names["assignment"], names["student"])
            notebook.late_submission_penalty = self._check_late_penalty(notebook, fraction * notebook.score) if fraction else None
            gradebook.db.commit()
        return nb, resources


def fill_outputs(nb: Any, report: Report) -> None:
    """Replace the outputs of `nb` in place: each check's points and one line about it, and the errors that cells raised.

    nbgrader reads a grade cell's `text/plain` as partial credit, so that it records exactly the report's points. Raises BridgeError
    when a check has more points than its cell.
    """
    results = {check.name: check for check in report.checks}
    errors = {error.grade_id: error for error in report.cell_errors if error.grade_id is not None}
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        names = cell.metadata.get("nbgrader") or {}
        if is_grade(cell) and not is_solution(cell):
            cell.outputs.append(_check_output(results.get(names["grade_id"]), report))
            points, most = determine_grade(cell)
            if points != _points(results.get(names["grade_id"])):
                raise BridgeError(f"The check `{names['grade_id']}` earned {_points(results.get(names['grade_id']))!r} of {most!r} points.")
        elif names.get("grade_id") in errors:
            error = errors[names["grade_id"]]
            kind, _, message = error.message.partition(": ")
            traceback = (error.traceback or error.message).split("\n")
            cell.outputs.append(new_output("error", ename=kind, evalue=message, traceback=traceback))


def _points(check: CheckResult | None) -> float:
    return check.points if check else 0.0


def _check_output(check: CheckResult | None, report: Report) -> Any:
    data = {"text/plain": repr(float(_points(check))), "text/html": _line(check, report)}
    return new_output("execute_result", data=data, execution_count=None)


def _line(check: CheckResult | None, report: Report) -> str:
    """One check as HTML. Every text in it may be a student's, so all are escaped; a hidden check tells its outcome only."""
    if check is None:
        return f"<div>This check was not graded. {html.escape((report.problem or '')[:MAX_MESSAGE])}</div>"
    parts = [
        f"<b>{SYMBOLS[check.outcome]} {OUTCOMES[check.outcome]}</b> · {check.points:g} of {check.max_points:g} points",
        html.escape(check.sentence[:MAX_MESSAGE]),
    ]
    if check.message and not check.hidden:
        parts.append(html.escape(check.message[:MAX_MESSAGE]))
    example = f"<pre>{html.escape(check.counterexample.call[:MAX_MESSAGE])}</pre>" if check.counterexample and not check.hidden else ""
    return f"<div>{'<br>'.join(parts)}{example}</div>"
