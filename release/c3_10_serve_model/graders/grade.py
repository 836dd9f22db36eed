"""Grades one submission: from the notebook's cells to the report."""

from __future__ import annotations

import datetime as dt
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3

from graders.budgets import LabBudgets
from graders.checks import Check, GraderFault, failed, in_order, run_check
from graders.measure import BudgetRun
from graders.notebook import GradeCell, NotebookError, cells, code_to_run, grade_cells, manual_cells
from graders.report import CellError, CheckResult, Machine, ManualAnswer, Report
from graders.session import Cells, Session, TooManyDeaths
from graders.sides import WorkerSides, walls_of
from graders.submission import Submission
from graders.worker.sandbox import probe

Progress = Callable[[str], None]
MAX_REMEASURED = 2  # how often a budget is measured again after a host that was too busy
UNANSWERED = "YOUR ANSWER HERE"  # what nbgrader's ClearSolutions leaves of a question


@dataclass(frozen=True)
class LabKit:
    """All that grading a lab needs, from the trusted side.

    `source` is the trusted notebook (with solutions in official grading; on a student's machine the student's own).
    `salt` is the secret that inputs are drawn from; `grader` identifies the version of engine and lab. Where not `official`, checks
    that are not installed are left out.
    """

    course: str
    lab: str
    source: Any
    budgets: LabBudgets
    checks: dict[str, Check]
    baseline: Path | None
    salt: bytes
    grader: str
    official: bool = True

    def grade_cells(self) -> list[GradeCell]:
        """The graded cells of the trusted notebook, in order."""
        found = grade_cells(self.source, f"{self.lab}.ipynb")
        return [cell for cell in found if self.official or cell.check in self.checks]


def seed_of(salt: bytes, student: str, lab: str, check: str) -> int:
    """Return the secret seed of one check's inputs: 63 bits of BLAKE3 keyed by the course salt. It does not depend on what is handed in."""
    key = blake3.blake3(salt).digest()
    return int.from_bytes(blake3.blake3(f"{student}\0{lab}\0{check}".encode(), key=key).digest(8), "little") >> 1


def this_machine() -> Machine:
    """Describe the host."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Hardware")))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return Machine(
        cpu=cpu, cores=os.cpu_count() or 1, python=platform.python_version(), platform=platform.system(), load=round(os.getloadavg()[0], 2)
    )


def grade_submission(kit: LabKit, submission: Submission, sides: WorkerSides, progress: Progress | None = None) -> Report:
    """Grade `submission` and return its report. Whatever the submission does costs it its own checks and raises nothing here."""
    started = time.monotonic()
    commitment = blake3.blake3(seed_of(kit.salt, submission.student, kit.lab, "").to_bytes(8, "little")).hexdigest()
    report = Report(
        course=kit.course,
        lab=kit.lab,
        student=submission.student,
        submission=submission.digest,
        graded_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        isolation=str(probe()),
        checks=[],
        points=0.0,
        max_points=0.0,
        machine=this_machine(),
        grader=kit.grader,
        seed_commitment=commitment,
        problem=submission.problem,
        submitted_at=submission.submitted_at.isoformat() if submission.submitted_at else None,
    )
    code: Cells = []
    if submission.notebook is not None:
        try:
            code, report.tampering = code_to_run(submission.notebook, kit.source)
        except NotebookError as error:
            report.problem = str(error)
    report.manual = _manual_answers(kit, submission)
    if report.problem is not None:
        report.checks = [_not_graded(kit, cell, report.problem) for cell in kit.grade_cells()]
    else:
        with Session(code, walls_of(kit.budgets, kit.baseline), kit.budgets.limits.seconds) as session:
            report.checks = _Checks(kit, submission.student, session, sides, progress).run()
            report.cell_errors = [session.errors[number] for number in sorted(session.errors)]
    report.points = round(sum(result.points for result in report.checks), 6)
    report.max_points = sum(result.max_points for result in report.checks)
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _not_graded(kit: LabKit, cell: GradeCell, problem: str) -> CheckResult:
    check = kit.checks[cell.check]
    return CheckResult(
        name=check.name,
        kind=check.kind,
        sentence=check.sentence,
        outcome="not_run",
        fraction=0.0,
        points=0.0,
        max_points=cell.points,
        message=problem,
        hidden=check.hidden,
    )


def _manual_answers(kit: LabKit, submission: Submission) -> list[ManualAnswer]:
    questions = manual_cells(kit.source, f"{kit.lab}.ipynb")
    handed_in = {cell.grade_id: cell.source for cell in cells(submission.notebook)} if submission.notebook is not None else {}
    answers = []
    for question in questions:
        text = handed_in.get(question.grade_id, "")
        answered = text.strip() not in ("", UNANSWERED)
        answers.append(
            ManualAnswer(grade_id=question.grade_id or "", max_points=question.points or 0.0, answered=answered, text=text[:20_000])
        )
    return answers


class _Checks:
    """Runs a lab's checks against one submission, prerequisites first."""

    def __init__(self, kit: LabKit, student: str, session: Session, sides: WorkerSides, progress: Progress | None) -> None:
        self._kit, self._student, self._session, self._sides = kit, student, session, sides
        self._progress = progress or (lambda _: None)
        self._results: dict[str, CheckResult] = {}

    def run(self) -> list[CheckResult]:
        """Return the results in the order of the notebook's cells."""
        graded = {cell.check: cell for cell in self._kit.grade_cells()}
        for check in in_order(self._kit.checks):
            if check.name in graded:
                self._progress(check.name)
                self._results[check.name] = self._one(check, graded[check.name])
        return [self._results[name] for name in graded]

    def _one(self, check: Check, cell: GradeCell) -> CheckResult:
        result = _not_graded(self._kit, cell, "")
        missing = [
            name for name in check.after if name in self._results and self._results[name].outcome not in ("pass", "partial", "error")
        ]
        if missing:
            result.message = f"Not run, because {', '.join(f'`{name}`' for name in missing)} must pass first."
            return result
        if self._session.out_of_time:
            return failed(
                result, f"The {self._kit.budgets.limits.seconds:.0f} s that grading one submission may take were used up before this check."
            )
        try:
            outcome = self._run_on(self._session, check, cell)
        except GraderFault as fault:
            outcome = self._whose_fault(check, cell, result, fault)
        except TooManyDeaths:
            return failed(result, "Your code ended or hung its process too often; this check was given up.")
        if self._session.subject is not None and outcome.outcome == "fail":
            self._explain_missing_names(outcome)
        return outcome

    def _run_on(self, session: Session, check: Check, cell: GradeCell) -> CheckResult:
        seed = seed_of(self._kit.salt, self._student, self._kit.lab, check.name)
        with self._sides.working():
            subject = session.alive(seed)
            subject.call_seconds = min(20.0, max(1.0, session.deadline - time.monotonic()))
        if check.budget is None:
            with self._sides.working():
                result = run_check(check, subject, seed=seed, max_points=cell.points)
        else:
            budget = self._kit.budgets.budgets[check.budget]
            if not self._sides.has_reference:
                budget = budget.on_push()
            for attempt in range(1 + MAX_REMEASURED):
                budget_run = BudgetRun(check.budget, budget, subject, self._sides, seed + attempt)
                result = run_check(check, subject, seed=seed, max_points=cell.points, budget_run=budget_run)
                if result.outcome != "error":
                    break
        if not subject.is_alive():
            session.lost()
        return result

    def _whose_fault(self, check: Check, cell: GradeCell, result: CheckResult, fault: GraderFault) -> CheckResult:
        """The check itself broke: the grader's fault only if it also breaks on the instructor's solution."""
        self._session.lost()
        self._sides.reset()
        code, _ = code_to_run(self._kit.source, self._kit.source)
        with Session(code, walls_of(self._kit.budgets, self._kit.baseline), self._kit.budgets.limits.seconds) as reference:
            try:
                self._run_on(reference, check, cell)
            except (GraderFault, TooManyDeaths):
                result.outcome, result.fraction, result.points = "error", 1.0, result.max_points
                result.message = f"The check itself broke ({str(fault)[:300]}). This is the grader's fault and costs no points."
                return result
        return failed(result, f"The check could not use what your code returned ({str(fault)[:300]}).")

    def _explain_missing_names(self, result: CheckResult) -> None:
        """Where a name is missing because its cell failed, say which cell and why."""
        if "is not defined in the notebook" not in result.message:
            return
        errors: list[CellError] = list(self._session.errors.values())
        if errors:
            first = errors[0]
            result.message += f" Cell {first.cell} failed: {first.message[:300]}"
