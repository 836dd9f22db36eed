"""Run the public checks on a notebook, as a student: what fails, with the smallest input that breaks it, and how far the budget is.

The grade shown is indicative: official grading draws other inputs and measures against the reference. Exit code 0 even when checks
fail, unless --strict.
"""

from pathlib import Path
from typing import Annotated

import typer

from graders.commands.shared import Json, plain, print_json

Notebook = Annotated[Path, typer.Argument(help="The notebook, e.g. c4_09_simd_search.ipynb.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 when a check fails.")]


def run(notebook: Notebook, json: Json = False, strict: Strict = False) -> None:
    """Check a notebook."""
    from graders.indicative import check_notebook
    from graders.notebook_check import as_text

    report = check_notebook(notebook, progress=None if json else lambda name: print(f"… {name}", end="\r", flush=True))
    if json:
        print_json(report)
    else:
        for sentence in [*report.tampering, *(f"Cell {error.cell} raised {error.message}" for error in report.cell_errors)]:
            print(plain(sentence))
        for result in report.checks:
            print("\n".join(plain(line) for line in as_text(result).splitlines()))
        print(f"{report.points:g} of {report.max_points:g} points, {report.seconds:.0f} s, isolation: {report.isolation}")
    raise typer.Exit(1 if strict and report.points < report.max_points else 0)
