"""Reports into nbgrader's gradebook and `autograded/`, so that its Formgrader, exports and feedback work on this course's scores.

Each submission passes through nbgrader's own steps, in the order of `nbgrader_config.py`, without a converter and without a kernel.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graders.course import Layout, load_course
from graders.notebook import NotebookError, cells, read
from graders.problems import UserProblem
from graders.report import Report, write_atomically, write_report
from graders.submission import read_submission

# nbgrader's own spelling of a moment in `timestamp.txt`.
TIMESTAMP = "%Y-%m-%d %H:%M:%S.%f UTC"
TOLERANCE = 1e-6
# Steps that a converter needs and `record` does not: it copies no side files, and after RestoreCells all nbgrader metadata is the source's,
# which `save_cells` has had validated once. Validating each submission takes 0.31 instead of 0.17 s of CPU on a lab of 42 cells (2 cores,
# load 3.5, 2026-11-21).
NOT_NEEDED = frozenset({"graders.nbgrader_bridge.RefuseLinks", "nbgrader.preprocessors.CheckCellMetadata"})


class GradebookError(UserProblem):
    """The gradebook can't hold a report; the message says which and what to do."""


def record(root: Path, reports: list[Report], progress: Callable[[str], None] | None = None) -> None:
    """Record `reports` in the gradebook and write `autograded/<student>/<lab>/<lab>.ipynb` for each.

    A submission whose notebook can't be read gets the score 0 and no notebook. Scores that a TA gave by hand stay; they are marked for
    review when what they were given for has changed. `progress` is called with "student lab" after each. Raises ReleaseError when a
    lab's cells can't be recorded, and GradebookError, after all others are recorded, for the reports that can't be.
    """
    if not reports:
        return
    from nbgrader.coursedir import CourseDirectory

    from graders.nbgrader_bridge import load_config

    root = root.resolve()
    config = load_config(root)
    coursedir = CourseDirectory(config=config)
    for lab in sorted({report.lab for report in reports}):
        _record_lab(root, lab, coursedir, config)
    problems = []
    with warnings.catch_warnings():
        # nbgrader 0.9.6 links its rows in an order that SQLAlchemy 2.1 remarks on and then stores rightly.
        warnings.filterwarnings("ignore", message="Object of type .* not in session")
        for report in reports:
            try:
                _record_one(root, report, coursedir, config)
            except Exception as error:  # noqa: BLE001 - one submission must never stop the class
                problems.append(f"{report.lab} of {report.student}: {error}")
            if progress:
                progress(f"{report.student} {report.lab}")
    if problems:
        raise GradebookError("\n".join(["The gradebook could not take these reports:", *problems]))


def _record_lab(root: Path, lab: str, coursedir: Any, config: Any) -> None:
    """Ensure that the gradebook has the lab, its deadline, and the cells of its source as they are now."""
    from nbgrader.api import Gradebook

    from graders.nbgrader_bridge import resources_for
    from graders.release import save_cells

    details = {}
    if Layout(root).course_file.is_file():
        due = next((known.due for known in load_course(root).labs if known.slug == lab), None)
        details = {"duedate": due.astimezone(dt.UTC).replace(tzinfo=None)} if due else {}
    with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
        gradebook.update_or_create_assignment(lab, **details)
    save_cells(root, lab, config, resources_for(coursedir, ".", lab))


def _record_one(root: Path, report: Report, coursedir: Any, config: Any) -> None:
    from nbgrader.api import Gradebook

    student, lab = report.student, report.lab
    layout = Layout(root)
    with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
        gradebook.update_or_create_student(student)
        moment = _moment(report)
        gradebook.update_or_create_submission(lab, student, **({"timestamp": moment} if moment else {}))
        reviewed = _reviewed(gradebook, report)
    folder = layout.autograded_dir(student, lab)
    folder.mkdir(parents=True, exist_ok=True)
    previous = _answers(layout.autograded_notebook(student, lab))
    notebook = read_submission(layout.submitted_dir(student, lab), student, lab).notebook
    if notebook is None:
        layout.autograded_notebook(student, lab).unlink(missing_ok=True)
        _record_nothing(coursedir, report)
    else:
        _run_steps(notebook, report, coursedir, config, layout.autograded_notebook(student, lab))
        _keep_reviews(coursedir, report, reviewed, previous, _answers(layout.autograded_notebook(student, lab)))
    if not layout.report(student, lab).exists():
        write_report(report, layout.report(student, lab))
    if moment:
        write_atomically(folder / "timestamp.txt", f"{moment.strftime(TIMESTAMP)}\n".encode())


def _moment(report: Report) -> dt.datetime | None:
    """When the submission came, in UTC without a zone, as the gradebook keeps it."""
    if report.submitted_at is None:
        return None
    moment = dt.datetime.fromisoformat(report.submitted_at)
    return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _run_steps(notebook: Any, report: Report, coursedir: Any, config: Any, target: Path) -> None:
    """Run nbgrader's autograde steps on one submission and write the notebook that they leave."""
    import nbformat
    from traitlets.utils.importstring import import_item

    from graders.nbgrader_bridge import resources_for, silent_logger

    resources = resources_for(coursedir, report.student, report.lab)
    resources["nbgrader"]["report"] = report
    for name in [*config.Autograde.sanitize_preprocessors, *config.Autograde.autograde_preprocessors]:
        if name in NOT_NEEDED:
            continue
        notebook, resources = import_item(name)(config=config, log=silent_logger())(notebook, resources)
    _prove_recorded(coursedir, report)
    write_atomically(target, nbformat.writes(notebook).encode() + b"\n")


def _prove_recorded(coursedir: Any, report: Report) -> None:
    """Raise GradebookError unless the gradebook's automatic scores of the checks are those of the report."""
    from nbgrader.api import Gradebook

    with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
        grades = gradebook.find_submission_notebook(report.lab, report.lab, report.student).grades
        recorded = {grade.name: grade.auto_score for grade in grades}
    for check in report.checks:
        score = recorded.get(check.name)
        if score is None or abs(score - check.points) > TOLERANCE:
            problem = f"the check `{check.name}` earned {check.points:g} points, but the gradebook has {score}"
            raise GradebookError(f"{problem}. Regrade with `--force`: the notebook's checks have changed.")


def _record_nothing(coursedir: Any, report: Report) -> None:
    """Give an unreadable submission the score 0; a score that a TA gave by hand stays."""
    from nbgrader.api import Gradebook

    with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
        notebook = gradebook.find_submission_notebook(report.lab, report.lab, report.student)
        for grade in notebook.grades:
            grade.auto_score = 0
            grade.needs_manual_grade = grade.manual_score is not None
        notebook.late_submission_penalty = None
        gradebook.db.commit()


def _reviewed(gradebook: Any, report: Report) -> dict[str, float | None]:
    """The grades that a TA has given by hand and that wait for no review: grade id → the automatic score beside it."""
    grades = gradebook.find_submission_notebook(report.lab, report.lab, report.student).grades
    return {grade.name: grade.auto_score for grade in grades if grade.manual_score is not None and not grade.needs_manual_grade}


def _keep_reviews(coursedir: Any, report: Report, reviewed: dict[str, float | None], before: dict[str, str], after: dict[str, str]) -> None:
    """Take back nbgrader's mark "needs manual grade" where neither the automatic score nor the graded cell's text has changed."""
    from nbgrader.api import Gradebook

    if not reviewed:
        return
    with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
        for grade in gradebook.find_submission_notebook(report.lab, report.lab, report.student).grades:
            same = grade.name in reviewed and reviewed[grade.name] == grade.auto_score
            if same and grade.name in before and before[grade.name] == after.get(grade.name):
                grade.needs_manual_grade = False
        gradebook.db.commit()


def _answers(path: Path) -> dict[str, str]:
    """The text of each nbgrader cell of an autograded notebook; empty when there is none."""
    if not path.is_file():
        return {}
    try:
        return {cell.grade_id: cell.source for cell in cells(read(path)) if cell.grade_id is not None}
    except NotebookError:
        return {}
