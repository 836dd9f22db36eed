"""The student's version of each lab: `source/<lab>/` → `release/<lab>/`, by nbgrader's own converter.

`nbgrader generate_assignment <lab>` gives the same bytes, since both load `nbgrader_config.py`; `release` adds that a release folder is
replaced as a whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from graders.course import Layout
from graders.leaks import prove_clean
from graders.notebook import NotebookError, grade_cells, manual_cells, read
from graders.problems import UserProblem


class ReleaseError(UserProblem):
    """A lab that can't be released; the message says why."""


def release(root: Path, labs: Iterable[str], progress: Callable[[str], None] | None = None) -> list[Path]:
    """Write `release/<lab>/` for each lab and record its cells in the gradebook; return the folders.

    The same source gives the same bytes. `progress` is called with each lab's slug when it is done. Raises NotebookError,
    PublicError, LeakError or ReleaseError with a sentence; the lab's folder is then left as it was.
    """
    folders = []
    for lab in labs:
        target = Layout(root).release_dir(lab)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as workshop:
            built = build(root, lab, Path(workshop))
            _replace(target, built, Path(workshop))
        folders.append(target)
        if progress:
            progress(lab)
    return folders


def build(root: Path, lab: str, into: Path, *, database: bool = True) -> Path:
    """Write the release of `lab` as `into/<lab>/`, proven clean, and return that folder; `database=False` leaves the gradebook alone."""
    root = root.resolve()
    check_source(root, lab)
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory

    from graders.nbgrader_bridge import load_config, silent_logger

    class Generator(GenerateAssignment):
        """nbgrader logs what went wrong and raises a bare exception; this keeps the cause."""

        failure: Exception | None = None

        def init_assignment(self, assignment_id: str, student_id: str) -> None:
            self._keep_failure(super().init_assignment, assignment_id, student_id)

        def convert_single_notebook(self, notebook_filename: str) -> None:
            self._keep_failure(super().convert_single_notebook, notebook_filename)

        def _keep_failure(self, step: Callable[..., None], *arguments: str) -> None:
            try:
                step(*arguments)
            except Exception as error:
                self.failure = error
                raise

    config = load_config(root)
    config.CourseDirectory.release_directory = str(into.resolve())
    config.CourseDirectory.assignment_id = lab
    if not database:
        config.SaveCells.enabled = False
        config.GenerateAssignment.no_database = True
    generator = Generator(coursedir=CourseDirectory(config=config), config=config, log=silent_logger())
    try:
        generator.start()
    except Exception as error:  # noqa: BLE001 - nbgrader raises anything
        cause = generator.failure or error
        if isinstance(cause, UserProblem):
            raise cause from None
        raise ReleaseError(f"{lab}: nbgrader could not make the release: {cause}") from cause
    folder = into / lab
    prove_clean(root, lab, folder)
    return folder


def check_source(root: Path, lab: str) -> Any:
    """Return the lab's source notebook; raise NotebookError if it breaks a rule of docs/authoring.md that a release rests on."""
    path = Layout(root).source_notebook(lab)
    notebook = read(path)
    grade_cells(notebook, str(path))
    manual_cells(notebook, str(path))
    ids = [cell.get("id") for cell in notebook["cells"]]
    if notebook.get("nbformat_minor", 0) < 5 or not all(ids):
        raise NotebookError(f"{path}: each cell needs an id (notebook format 4.5), or releases would differ from run to run.")
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise NotebookError(f"{path}: two cells have the id `{twice}`.")
    return notebook


def save_cells(root: Path, lab: str, config: Any, resources: dict[str, Any]) -> None:
    """Record the cells of the lab's source in the gradebook by a release's own steps, without writing a release.

    `config` is nbgrader's configuration, and `resources` name the lab and the gradebook. Raises ReleaseError when cells were added or
    removed after submissions were recorded, which nbgrader refuses.
    """
    from traitlets.utils.importstring import import_item

    from graders.nbgrader_bridge import silent_logger

    notebook = check_source(root, lab)
    for name in config.GenerateAssignment.preprocessors:
        step = import_item(name)(config=config, log=silent_logger())
        try:
            notebook, _ = step(notebook, resources)
        except RuntimeError as error:
            raise ReleaseError(f"{lab}: {error}. Take the change back, or remove the assignment with `nbgrader db`.") from None
        if name.endswith(".SaveCells"):
            return
    raise ReleaseError("nbgrader_config.py: GenerateAssignment.preprocessors must hold nbgrader.preprocessors.SaveCells.")


def _replace(target: Path, built: Path, workshop: Path) -> None:
    """Put `built` where `target` is; the old folder waits in `workshop` until the new one stands."""
    old = workshop / f"old-{target.name}"
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(built, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
