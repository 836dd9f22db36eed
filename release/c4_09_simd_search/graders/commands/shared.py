"""What the commands have in common: options, the table of results, the progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Labs = Annotated[
    list[str] | None,
    typer.Argument(help="Labs by slug, e.g. c4_09_simd_search; all of classroom.yml if none is named.", metavar="[LAB]..."),
]
Root = Annotated[Path | None, typer.Option("--root", help="The course folder; else the nearest one above that holds classroom.yml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that grade at once; measurements still take turns.")]
DEFAULT_JOBS = os.cpu_count() or 1


def course_root(root: Path | None) -> Path:
    """Return the course folder; raise CourseError where there is none."""
    from graders.course import find_root

    return find_root(root or Path.cwd()).resolve()


def chosen_labs(root: Path, labs: list[str] | None) -> list[str]:
    """Return the slugs of the named labs, or of all; raise CourseError with a suggestion for an unknown one."""
    from graders.course import load_course

    course = load_course(root)
    return [course.lab(lab).slug for lab in labs or []] or [lab.slug for lab in course.labs]


def print_json(value: Any) -> None:
    """Print `value` (msgspec structs included) as indented JSON."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


@contextmanager
def progress_bar(total: int, label: str, quiet: bool) -> Iterator[Any]:
    """Yield a function `advance(text)` that moves a bar on stderr by one; `quiet` shows none."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}", markup=False),
    )
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task(label, total=total, now="")
        yield lambda text: progress.update(task, advance=1, now=text)


def plain(text: str) -> str:
    """Make text that came from a student harmless for a terminal: no control or direction-changing characters."""
    return "".join(character if character.isprintable() else "�" for character in text)
