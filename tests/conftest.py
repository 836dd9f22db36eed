"""What the tests share: a worker of a tiny notebook, and a lab kit made of a few lines."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from graders.budgets import Budget, LabBudgets, Receipt, WorkerLimits
from graders.checks import Check
from graders.grade import LabKit
from graders.report import Tier
from graders.sides import WorkerSides
from graders.subject import Handle, Subject
from graders.worker.client import WorkerProcess
from graders.worker.sandbox import Walls

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The course folder."""
    return ROOT


@pytest.fixture
def worker_of() -> Iterator[Callable[..., Subject]]:
    """A function that runs code in a fresh sandboxed worker and returns its subject; all workers end with the test."""
    workers: list[WorkerProcess] = []

    def start(code: str = "", walls: Walls | None = None, seconds: float = 20.0) -> Subject:
        worker = WorkerProcess(walls or Walls(memory_mb=1024), Handle)
        workers.append(worker)
        errors = worker.request("run_cells", [[1, "code", code]], seconds=30)
        assert errors == [], errors
        return Subject(worker, call_seconds=seconds)

    yield start
    for worker in workers:
        worker.close()


def code_cell(source: str, **nbgrader: Any) -> Any:
    """A code cell, with nbgrader metadata when any is given."""
    metadata = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False, **nbgrader}
    return nbformat.v4.new_code_cell(source, metadata={"nbgrader": metadata} if nbgrader else {})


def notebook_of(solution: str, checks: dict[str, float]) -> Any:
    """A notebook with one solution cell and one grade cell a check (name → points)."""
    cells = [code_cell(solution, solution=True, grade_id="answer")]
    cells += [code_cell(f'check("{name}")', grade=True, locked=True, points=points, grade_id=name) for name, points in checks.items()]
    return nbformat.v4.new_notebook(cells=cells)


def budget(kind: str = "speedup", limits: tuple[float, ...] = (3.0, 1.5), **fields: Any) -> Budget:
    """A budget with full and half credit."""
    tiers = [Tier(credit=1 / 2**place, limit=limit) for place, limit in enumerate(limits)]
    receipt = Receipt(machine="test", date=dt.date(2026, 11, 21), command="pytest", measured={"solution": 1.0})
    return Budget(kind=kind, tiers=tiers, receipt=receipt, **fields)  # type: ignore[arg-type]


@pytest.fixture
def kit_of(tmp_path: Path) -> Iterator[Callable[..., tuple[LabKit, WorkerSides]]]:
    """A function that makes a kit and its sides from checks, a solution and a baseline."""
    opened: list[WorkerSides] = []

    def make(
        checks: list[Check],
        solution: str,
        *,
        baseline: str = "",
        budgets: dict[str, Budget] | None = None,
        seconds: float = 120,
        memory_mb: int = 1024,
    ) -> tuple[LabKit, WorkerSides]:
        path = tmp_path / "baseline.py"
        path.write_text(baseline)
        limits = WorkerLimits(memory_mb=memory_mb, seconds=seconds)
        lab_budgets = LabBudgets(lab="tiny", budgets=budgets or {}, limits=limits)
        source = notebook_of(solution, {check.name: 2 for check in checks})
        kit = LabKit("course", "tiny", source, lab_budgets, {check.name: check for check in checks}, path, b"salt", "version")
        sides = WorkerSides(lab_budgets, path, None, tmp_path / "locks")
        opened.append(sides)
        return kit, sides

    yield make
    for sides in opened:
        sides.close()
