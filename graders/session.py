"""One submission's worker over time: loads the notebook cell by cell, and starts again after a death, without the cell that caused it."""

from __future__ import annotations

import time

from graders.report import CellError
from graders.subject import Handle, StudentError, Subject
from graders.worker.client import WorkerLost, WorkerProcess
from graders.worker.sandbox import Walls

Cells = list[tuple[int, str | None, str]]

CELL_SECONDS = 12.0
MAX_STARTS = 12


class TooManyDeaths(Exception):
    """The submission has ended its worker so often that grading goes on without it."""


class Session:
    """Runs `cells` (number, grade id, code) in a fresh worker when first needed and after each loss.

    A cell that hangs or ends the worker is left out from then on; the others still count. `errors` tells what each cell raised.
    """

    def __init__(self, cells: Cells, walls: Walls, seconds: float) -> None:
        self._cells = list(cells)
        self._walls = walls
        self._worker: WorkerProcess | None = None
        self._starts = 0
        self.deadline = time.monotonic() + seconds
        self.errors: dict[int, CellError] = {}
        self.subject: Subject | None = None

    @property
    def out_of_time(self) -> bool:
        """Whether the submission has used up the wall time of its grading."""
        return time.monotonic() > self.deadline

    def alive(self, rng_seed: int) -> Subject:
        """Return a subject whose worker has run all usable cells; `rng_seed` seeds its `rng()`."""
        while self._worker is None:
            self._start()
        assert self.subject is not None
        self.subject._rng_seed = rng_seed
        return self.subject

    def _start(self) -> None:
        if self._starts >= MAX_STARTS:
            raise TooManyDeaths
        self._starts += 1
        worker = WorkerProcess(self._walls, Handle)
        for cell in list(self._cells):
            number, grade_id, _ = cell
            try:
                self._note(worker.request("run_cells", [cell], seconds=CELL_SECONDS), number, grade_id)
            except (WorkerLost, StudentError) as error:
                worker.close()
                self._cells.remove(cell)
                sentence = error.sentence if isinstance(error, WorkerLost) else str(error)
                self.errors[number] = CellError(cell=number, grade_id=grade_id, message=f"This cell was left out. {sentence}")
                return
        self._worker, self.subject = worker, Subject(worker)

    def _note(self, raised: object, number: int, grade_id: str | None) -> None:
        if isinstance(raised, list) and raised and isinstance(raised[0], dict):
            words = {key: str(raised[0].get(key, ""))[:2000] for key in ("kind", "message", "traceback")}
            message = f"{words['kind']}: {words['message']}" if words["message"] else words["kind"]
            self.errors[number] = CellError(cell=number, grade_id=grade_id, message=message, traceback=words["traceback"])

    def lost(self) -> None:
        """Say that the worker can't be used any more; the next `alive` starts another."""
        if self._worker is not None:
            self._worker.close()
        self._worker, self.subject = None, None

    def close(self) -> None:
        """End the worker."""
        self.lost()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
