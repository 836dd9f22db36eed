"""The function `check(name)` inside a notebook: the public checks against the functions defined so far, in this process."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graders.checks import Check, GraderFault, load_checks, run_check
from graders.notebook import NotebookError, grade_cells, read
from graders.report import CheckResult
from graders.subject import LocalTransport, Subject

SEED = 20270111
SYMBOLS = {"pass": "✓", "partial": "◐", "fail": "✗", "error": "!", "not_run": "–"}
COLOURS = {"pass": "#1a7f4b", "partial": "#9a6700", "fail": "#b42318", "error": "#6941c6", "not_run": "#667085"}


class LocalSides:
    """The baseline, and where it is installed the reference, in this process."""

    def __init__(self, reference: str | None, baseline: Path | None) -> None:
        self._reference, self._baseline = reference, baseline

    @property
    def has_reference(self) -> bool:
        """Whether the reference is installed here."""
        return self._reference is not None and importlib.util.find_spec(self._reference.split(".")[0]) is not None

    def other(self, against: str) -> Subject:
        """Return the subject of `against`."""
        if against == "reference" and self._reference:
            module = importlib.import_module(self._reference)
        else:
            if self._baseline is None:
                raise AssertionError("There is no baseline.py beside the notebook to measure against.")
            spec = importlib.util.spec_from_file_location("classroom_baseline", self._baseline)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return Subject(LocalTransport(vars(module)))

    @contextlib.contextmanager
    def quiet(self, *, exclusive: bool) -> Iterator[None]:
        """A notebook has its machine to itself as far as we can tell."""
        yield


class NotebookChecks:
    """The checks of `lab` for a notebook whose globals are `namespace`."""

    def __init__(self, lab: str, namespace: dict[str, Any]) -> None:
        self.lab = lab
        self._subject = Subject(LocalTransport(namespace))
        self._checks: dict[str, Check] | None = None
        self._points: dict[str, float] | None = None

    def check(self, name: str) -> float:
        """Run the check `name`, show the result, and return the points earned (a float in [0, points])."""
        # Whatever is printed to stderr would cost a student the cell under nbgrader's own scoring.
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                result = self._run(name)
            except (NotebookError, ValueError, LookupError) as error:
                _show_text(f"{name}: {error}")
                return 0.0
        _show(result)
        return max(0.0, float(result.points))

    def _run(self, name: str) -> CheckResult:
        checks = self._load()
        points = self._points_of(name)
        if name not in checks:
            return CheckResult(
                name=name,
                kind="test",
                sentence="Part of the official grading.",
                outcome="not_run",
                fraction=0.0,
                points=0.0,
                max_points=points,
                message="This check runs in official grading only; it is not part of the released package.",
            )
        check = checks[name]
        try:
            return run_check(check, self._subject, seed=SEED, max_points=points, budget_run=self._budget_run(check))
        except GraderFault as fault:
            result = CheckResult(
                name=name, kind=check.kind, sentence=check.sentence, outcome="fail", fraction=0.0, points=0.0, max_points=points
            )
            result.message = f"The check could not use what your code returned ({fault})."
            return result

    def _load(self) -> dict[str, Check]:
        if self._checks is None:
            self._checks = load_checks(self.lab)
        return self._checks

    def _points_of(self, name: str) -> float:
        """Points live in the notebook's metadata only; without the file at hand the result is a fraction of 1."""
        if self._points is None:
            path = Path(f"{self.lab}.ipynb")
            self._points = {cell.check: cell.points for cell in grade_cells(read(path), str(path))} if path.exists() else {}
        return self._points.get(name, 1.0)

    def _budget_run(self, check: Check) -> Any:
        if check.budget is None:
            return None
        from graders.budgets import load_budgets
        from graders.measure import BudgetRun

        budgets = load_budgets(_find(f"perf_budgets/{self.lab}.yml"))
        baseline = next((path for path in (Path("baseline.py"), _root() / "source" / self.lab / "baseline.py") if path.exists()), None)
        sides = LocalSides(budgets.reference, baseline)
        budget = budgets.budgets[check.budget]
        return BudgetRun(check.budget, budget if sides.has_reference else budget.on_push(), self._subject, sides, SEED)


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


def _find(name: str) -> Path:
    return next((path for path in (Path(name), _root() / name) if path.exists()), Path(name))


def _show(result: CheckResult) -> None:
    if "ipykernel" in sys.modules:
        from IPython.display import HTML, display

        display(HTML(as_html(result)))
    else:
        _show_text(as_text(result))


def _show_text(text: str) -> None:
    print(text)


def as_text(result: CheckResult) -> str:
    """One result as plain text: symbol, points, sentence, what happened, the counterexample."""
    lines = [
        f"{SYMBOLS[result.outcome]} {result.name}: {result.points:g} of {result.max_points:g} points",
        f"  {result.sentence.splitlines()[0]}",
    ]
    if result.message:
        lines.append(f"  {result.message}")
    example = result.counterexample
    if example:
        for label, text in (("call", example.call), ("expected", example.expected), ("got", example.actual), ("where", example.traceback)):
            if text:
                lines += [f"  {label}:", *(f"    {line}" for line in text.splitlines())]
    return "\n".join(lines)


def as_html(result: CheckResult) -> str:
    """One result as a small HTML card; every text is escaped."""
    colour = COLOURS[result.outcome]
    body = [
        f'<div style="border-left:4px solid {colour};padding:.4em .8em;margin:.2em 0">',
        f'<b style="color:{colour}">{SYMBOLS[result.outcome]} {html.escape(result.outcome.replace("_", " "))}</b> ',
        f"<b>{html.escape(result.name)}</b> · {result.points:g} of {result.max_points:g} points",
        f"<div>{html.escape(result.sentence.splitlines()[0])}</div>",
    ]
    if result.message:
        body.append(f"<div><b>{html.escape(result.message)}</b></div>")
    example = result.counterexample
    if example:
        for label, text in (("call", example.call), ("expected", example.expected), ("got", example.actual), ("where", example.traceback)):
            if text:
                body.append(f'<div style="opacity:.7">{label}</div><pre style="margin:0 0 .3em">{html.escape(text)}</pre>')
    return "".join(body) + "</div>"
