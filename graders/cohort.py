"""Grades a class: finds submissions, skips what has not changed, spreads the rest over processes."""

from __future__ import annotations

import functools
import os
import secrets
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import blake3

from graders.course import Course, CourseError, Layout, load_course
from graders.report import Report, ReportError, read_report, write_report

STATE = ".classroom"


@dataclass(frozen=True)
class Graded:
    """One submission after grading. `previous` is the report that stood before; `fresh` is False when it still held."""

    student: str
    lab: str
    report: Report | None
    previous: Report | None
    fresh: bool
    fault: str | None = None

    @property
    def differences(self) -> list[str]:
        """What changed against the previous report, one line a check."""
        if self.previous is None or self.report is None:
            return []
        before = {check.name: check for check in self.previous.checks}
        lines = []
        for check in self.report.checks:
            old = before.get(check.name)
            if old is None:
                lines.append(f"{check.name}: new, {check.outcome}, {check.points:g} points")
            elif (old.outcome, old.points) != (check.outcome, check.points):
                lines.append(f"{check.name}: {old.outcome} → {check.outcome}, {old.points:g} → {check.points:g} points")
        return lines


def find_submissions(root: Path, labs: list[str], students: list[str]) -> list[tuple[str, str]]:
    """Return (student, lab) of every folder submitted/<student>/<lab>/, by lab then student; empty lists mean all.

    Raises CourseError for a student who handed in nothing at all.
    """
    course = load_course(root)
    slugs = [course.lab(lab).slug for lab in labs] or [lab.slug for lab in course.labs]
    folder = root / "submitted"
    present = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()) if folder.is_dir() else []
    unknown = [student for student in students if student not in present]
    if unknown:
        raise CourseError(f"{unknown[0]} has handed in nothing: there is no folder {folder / unknown[0]}.")
    return [
        (student, lab)
        for lab in slugs
        for student in students or present
        if (folder / student / lab).is_dir() and not (folder / student / lab).is_symlink()
    ]


def course_salt(root: Path) -> bytes:
    """Return the secret that official inputs are drawn from; made on first use, readable by its owner only, never committed."""
    path = root / STATE / "salt"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        return path.read_bytes()


def grader_version(root: Path, lab: str) -> str:
    """BLAKE3 over everything that decides a lab's score: engine, checks, budgets, reference, source notebook."""
    layout = Layout(root)
    engine = [path for path in (root / "graders").rglob("*.py") if "labs" not in path.relative_to(root / "graders").parts]
    lab_files = [*layout.checks_dir(lab).glob("*.py"), *layout.source_dir(lab).glob("*"), layout.budgets(lab)]
    hasher = blake3.blake3()
    for path in sorted({*engine, *lab_files, *(root / "reference").glob("*.py")}):
        if path.is_file():
            hasher.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest(16)


@functools.lru_cache(maxsize=4)
def official(root: Path, lab: str):  # type: ignore[no-untyped-def]  # LabKit and WorkerSides are imported late
    """Return the kit and the sides for official grading of `lab`, kept for the next submission of the same lab."""
    from graders.budgets import load_budgets
    from graders.checks import load_checks
    from graders.grade import LabKit
    from graders.notebook import read
    from graders.sides import WorkerSides

    layout, course = Layout(root), load_course(root)
    budgets = load_budgets(layout.budgets(lab))
    kit = LabKit(
        course=course.name,
        lab=lab,
        source=read(layout.source_notebook(lab)),
        budgets=budgets,
        checks=load_checks(lab),
        baseline=layout.baseline(lab),
        salt=course_salt(root),
        grader=grader_version(root, lab),
    )
    unknown = [cell.check for cell in kit.grade_cells() if cell.check not in kit.checks]
    if unknown:
        raise CourseError(f"{layout.source_notebook(lab)}: the check `{unknown[0]}` is not in graders/labs/{lab}/.")
    return kit, WorkerSides(budgets, layout.baseline(lab), root / "reference", root / STATE / "locks")


def report_for(root: Path, student: str, lab: str, *, force: bool = False) -> Graded:
    """Grade one submission, or return the report that stands if neither submission nor grader changed; writes report.json."""
    from graders.grade import grade_submission
    from graders.submission import read_submission

    layout, course = Layout(root), load_course(root)
    kit, sides = official(root, lab)
    submission = read_submission(layout.submitted_dir(student, lab), student, lab)
    path = layout.report(student, lab)
    try:
        previous = read_report(path) if path.exists() else None
    except ReportError:
        previous = None
    if previous is not None and not force and (previous.submission, previous.grader) == (submission.digest, kit.grader):
        return Graded(student, lab, previous, previous, fresh=False)
    report = grade_submission(kit, submission, sides)
    _apply_lateness(report, course)
    write_report(report, path)
    return Graded(student, lab, report, previous, fresh=True)


def _apply_lateness(report: Report, course: Course) -> None:
    if report.submitted_at is None:
        return
    import datetime as dt

    late = course.lab(report.lab).late_seconds(dt.datetime.fromisoformat(report.submitted_at))
    report.late_seconds, report.late_penalty = late, course.late_policy.penalty(late)


def _grade_one(root: Path, student: str, lab: str, force: bool) -> Graded:
    try:
        return report_for(root, student, lab, force=force)
    except Exception as error:  # noqa: BLE001 - one submission must never stop the class
        where = "".join(traceback.format_exception(error)[-3:])
        return Graded(student, lab, None, None, fresh=True, fault=f"{type(error).__name__}: {error}\n{where}")


def grade_class(root: Path, submissions: list[tuple[str, str]], *, jobs: int, force: bool, done: Callable[[Graded], None]) -> list[Graded]:
    """Grade `submissions` on `jobs` processes; `done` is told of each as it finishes. Raises CourseError where isolation is too weak."""
    require_isolation(load_course(root))
    results = []
    for graded in _stream(root, submissions, jobs, force):
        done(graded)
        results.append(graded)
    place = {key: number for number, key in enumerate(submissions)}
    return sorted(results, key=lambda graded: place[graded.student, graded.lab])


def _stream(root: Path, submissions: list[tuple[str, str]], jobs: int, force: bool) -> Iterator[Graded]:
    if jobs <= 1:
        for student, lab in submissions:
            yield _grade_one(root, student, lab, force)
        return
    # Spawned, not forked: a fork would inherit the progress bar's thread and its locks.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_grade_one, root, student, lab, force) for student, lab in submissions]):
            yield future.result()


def require_isolation(course: Course) -> None:
    """Raise CourseError when this machine's sandbox is weaker than `classroom.yml` demands for official grading."""
    from graders.worker.sandbox import LEVELS, probe

    here = probe()
    if LEVELS.index(here.level) < LEVELS.index(course.isolation):
        raise CourseError(
            f"classroom.yml demands isolation `{course.isolation}` for official grading, this machine gives `{here}`. "
            "Install what is missing, or lower `isolation` in classroom.yml knowingly."
        )
