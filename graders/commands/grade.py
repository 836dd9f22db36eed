"""Grade what was handed in: submitted/<student>/<lab>/ → autograded/, report.json, gradebook.db.

Only what changed since the last run is graded; --force grades all again and prints the differences. One broken submission never stops the
others. Exit code 1 when the grader itself failed on a submission.
"""

from typing import Annotated

import typer

from graders.commands.shared import DEFAULT_JOBS, Jobs, Json, Labs, Root, course_root, plain, print_json, progress_bar

Students = Annotated[list[str] | None, typer.Option("--student", "-s", help="Grade this student only; may be repeated.")]
Force = Annotated[bool, typer.Option("--force", help="Regrade what has not changed too, and print what differs.")]


def run(
    labs: Labs = None, student: Students = None, jobs: Jobs = DEFAULT_JOBS, force: Force = False, root: Root = None, json: Json = False
) -> None:
    """Grade submissions."""
    from graders.cohort import find_submissions, grade_class
    from graders.gradebook import record
    from graders.report import Report

    folder = course_root(root)
    submissions = find_submissions(folder, labs or [], student or [])
    if not submissions:
        print("Nothing was handed in: submitted/<student>/<lab>/ is empty.")
        return
    with progress_bar(len(submissions), "Grading", quiet=json) as advance:
        graded = grade_class(folder, submissions, jobs=jobs, force=force, done=lambda one: advance(f"{one.student} {one.lab}"))
    reports: list[Report] = [one.report for one in graded if one.report is not None and (one.fresh or not _recorded(folder, one))]
    with progress_bar(len(reports), "Recording", quiet=json) as advance:
        record(folder, reports, advance)
    if json:
        print_json(
            [{"student": one.student, "lab": one.lab, "fresh": one.fresh, "fault": one.fault, "report": one.report} for one in graded]
        )
    else:
        _print_table(graded, force)
    raise typer.Exit(1 if any(one.fault for one in graded) else 0)


def _recorded(folder, one) -> bool:  # type: ignore[no-untyped-def]
    from graders.course import Layout

    layout = Layout(folder)
    return layout.gradebook.exists() and layout.autograded_notebook(one.student, one.lab).exists()


def _print_table(graded, force: bool) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("student", "lab", "points", "outcome", ""):
        table.add_column(column, justify="right" if column == "points" else "left")
    for one in graded:
        if one.report is None:
            table.add_row(plain(one.student), one.lab, "?", "grader fault", plain(one.fault or "").splitlines()[0])
            continue
        report = one.report
        failed = [check.name for check in report.checks if check.outcome in ("fail", "partial", "error")]
        words = report.problem or (f"fails {', '.join(failed)}" if failed else "passes every check")
        table.add_row(
            plain(one.student), one.lab, f"{report.points:g}/{report.max_points:g}", "graded" if one.fresh else "unchanged", plain(words)
        )
    console = Console()
    console.print(table)
    if force:
        for one in graded:
            for line in one.differences:
                print(f"{plain(one.student)} {one.lab} {plain(line)}")
