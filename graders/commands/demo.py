"""Make a small class in a scratch folder, grade it, and say where to look.

Copies the course to demo/, builds the releases, hands in a class of solutions, planted faults, a broken notebook, an empty one, one
that loops for ever and one that looks for the reference; then grades, and writes gradebook and feedback.
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from graders.commands.shared import DEFAULT_JOBS, Jobs, Root, course_root, plain, progress_bar

Size = Annotated[int, typer.Option("--size", min=1, max=26, help="Students in the class.")]
Into = Annotated[Path | None, typer.Option("--into", help="Where to build it; else demo/ in the course folder. Replaced if it exists.")]

COPIED = ("classroom.yml", "nbgrader_config.py", "source", "reference", "perf_budgets", "graders")


def run(size: Size = 12, jobs: Jobs = DEFAULT_JOBS, into: Into = None, root: Root = None) -> None:
    """Run the demonstration."""
    from graders.classmaker import make_class
    from graders.cohort import find_submissions, grade_class
    from graders.course import load_course
    from graders.feedback import write_feedback
    from graders.gradebook import record
    from graders.release import release

    started = time.monotonic()
    folder = _scratch(course_root(root), into)
    labs = [lab.slug for lab in load_course(folder).labs]
    with progress_bar(len(labs), "Releasing", quiet=False) as advance:
        release(folder, labs, advance)
    made = make_class(folder, size)
    submissions = find_submissions(folder, labs, [])
    with progress_bar(len(submissions), "Grading", quiet=False) as advance:
        graded = grade_class(folder, submissions, jobs=jobs, force=False, done=lambda one: advance(f"{one.student} {one.lab}"))
    reports = [one.report for one in graded if one.report is not None]
    with progress_bar(len(reports), "Recording", quiet=False) as advance:
        record(folder, reports, advance)
    write_feedback(reports, folder / "feedback")
    _print_table(graded, made)
    print(f"\n{len(graded)} submissions in {time.monotonic() - started:.0f} s. Open in a browser: {folder / 'feedback' / 'index.html'}")
    print(f"Gradebook: {folder / 'gradebook.db'}. Formgrader: cd {folder} && jupyter lab, then Nbgrader > Formgrader.")
    raise typer.Exit(1 if any(one.fault for one in graded) else 0)


def _scratch(root: Path, into: Path | None) -> Path:
    import shutil

    from graders.course import CourseError

    folder = (into or root / "demo").resolve()
    marker = folder / ".classroom"
    if folder.exists() and not marker.is_dir():
        raise CourseError(f"{folder} exists and was not made by the demonstration; name another folder with --into.")
    shutil.rmtree(folder, ignore_errors=True)
    marker.mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, folder / name)
    return folder


def _print_table(graded, made) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("lab", "student", "handed in", "points", "what the report says"):
        table.add_column(column, justify="right" if column == "points" else "left", overflow="fold")
    for one in graded:
        report = one.report
        if report is None:
            table.add_row(one.lab, one.student, made[one.student][one.lab], "?", f"grader fault: {plain(one.fault)[:80]}")
            continue
        lost = [check.name for check in report.checks if check.points < check.max_points and check.outcome != "not_run"]
        words = report.problem or (f"fails {', '.join(lost)}" if lost else "passes every check")
        table.add_row(one.lab, one.student, made[one.student][one.lab], f"{report.points:g}/{report.max_points:g}", plain(words)[:110])
    Console(width=160).print(table)
