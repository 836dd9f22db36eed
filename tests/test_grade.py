"""Grading one submission: what every kind of bad submission costs, and that it costs nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import budget, code_cell, notebook_of
from hypothesis import given

from graders import expect
from graders.checks import check
from graders.grade import LabKit, grade_submission, seed_of
from graders.report import Report
from graders.sides import WorkerSides
from graders.strategies import matrices, vectors
from graders.submission import Submission

Make = Callable[..., tuple[LabKit, WorkerSides]]

SOLUTION = "import numpy as np\ndef dot(q, X):\n    return X.astype(np.float64) @ q\ndef one():\n    return 1\n"


@check
@given(q=vectors(4), X=matrices(3, 4))
def dot_is_right(lab: Any, q: np.ndarray, X: np.ndarray) -> None:
    """`dot(q, X)` is the product."""
    expect.close(lab.dot(q, X), X.astype(np.float64) @ q, rtol=1e-4, atol=1e-2)


@check
def one_is_one(lab: Any) -> None:
    """`one()` is 1."""
    expect.equal(lab.one(), 1)


@check(after="dot_is_right")
def dot_of_nothing(lab: Any) -> None:
    """`dot` of an empty matrix is empty."""
    expect.array(lab.dot(np.zeros(4, np.float32), np.zeros((0, 4), np.float32)), shape=(0,))


CHECKS = [dot_is_right, one_is_one, dot_of_nothing]


def grade(kit_of: Make, notebook: Any, **options: Any) -> Report:
    kit, sides = kit_of(CHECKS, SOLUTION, **options)
    return grade_submission(kit, Submission("ada", "tiny", "digest", notebook, None, None), sides)


def outcomes(report: Report) -> list[str]:
    return [check.outcome for check in report.checks]


def notebook(solution: str) -> Any:
    return notebook_of(solution, {each.name: 2 for each in CHECKS})


def test_the_solution_earns_full_marks(kit_of: Make) -> None:
    report = grade(kit_of, notebook(SOLUTION))
    assert outcomes(report) == ["pass"] * 3 and report.points == report.max_points == 6
    assert report.isolation.startswith("partial") and report.seed_commitment and not report.tampering


@pytest.mark.parametrize(
    ("solution", "points", "sentence"),
    [
        ("print('10/10')\nprint('{\"score\": 10}')", 0, "not defined"),
        (SOLUTION + "import os\nos._exit(0)", 0, "exit status 0"),
        (SOLUTION + "def dot(q, X):\n    import os\n    os._exit(0)", 2, "exit status 0"),
        (
            SOLUTION + "import pickle\nclass E:\n    def __reduce__(self): return (exit, ())\ndef one(): return pickle.dumps(E())",
            4,
            "not the expected",
        ),
        (SOLUTION + "import sys\nprint('warning', file=sys.stderr)", 6, ""),
        (SOLUTION + "import sys\ndef one():\n    print('noise', file=sys.stderr)\n    return 1", 6, ""),
        (SOLUTION + "def one(): return 1 / 0", 4, "ZeroDivisionError"),
        (SOLUTION + "def one(): raise SystemExit", 4, "SystemExit"),
        (SOLUTION + "raise RuntimeError('late')", 6, ""),
        ("def (", 0, "SyntaxError"),
        (
            SOLUTION
            + "class Liar:\n    def __eq__(self, other): return True\n    def __array__(self, *a, **k): raise ValueError\ndef one(): return Liar()",
            4,
            "",
        ),
        (SOLUTION + "def one(): return [[]] * 10**5", 4, ""),
    ],
)
def test_each_bad_submission_costs_only_its_own(kit_of: Make, solution: str, points: float, sentence: str) -> None:
    report = grade(kit_of, notebook(solution))
    assert report.points == points, [(check.name, check.outcome, check.message) for check in report.checks]
    assert sentence in " ".join(check.message for check in report.checks)
    assert "error" not in outcomes(report)


def test_an_endless_loop_in_one_cell_leaves_the_others(kit_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graders.session.CELL_SECONDS", 2.0)
    bad = notebook(SOLUTION)
    bad["cells"].insert(0, code_cell("while True: pass"))
    report = grade(kit_of, bad)
    assert report.points == 6
    assert "did not finish within 2 s" in report.cell_errors[0].message and report.cell_errors[0].cell == 1


def test_a_call_that_never_returns_costs_its_check_only(kit_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    report = grade(kit_of, notebook(SOLUTION + "import time\ndef one(): time.sleep(1000)"), seconds=30)
    assert outcomes(report) == ["pass", "fail", "pass"]
    assert "did not finish within" in report.checks[1].message


@pytest.mark.slow
def test_ten_gigabytes_cost_the_check_only(kit_of: Make) -> None:
    report = grade(kit_of, notebook(SOLUTION + "def one(): return len(np.ones(10 * 2**30 // 8))"), memory_mb=256)
    assert outcomes(report) == ["pass", "fail", "pass"]
    assert "256 MB" in report.checks[1].message or "MemoryError" in report.checks[1].message


def test_deleted_check_cells_are_put_back_and_said(kit_of: Make) -> None:
    bad = notebook(SOLUTION)
    bad["cells"] = bad["cells"][:1]
    report = grade(kit_of, bad)
    assert report.points == 6 and len(report.tampering) == 3 and "was deleted" in report.tampering[0]


def test_changed_points_do_not_count(kit_of: Make) -> None:
    bad = notebook("")
    for cell in bad["cells"][1:]:
        cell["metadata"]["nbgrader"]["points"] = 100
        cell["source"] = "100.0"
    report = grade(kit_of, bad)
    assert report.points == 0 and report.max_points == 6 and len(report.tampering) >= 3


def test_a_missing_prerequisite_is_not_run_and_says_why(kit_of: Make) -> None:
    report = grade(kit_of, notebook("def one(): return 1"))
    assert outcomes(report) == ["fail", "pass", "not_run"]
    assert "`dot_is_right` must pass first" in report.checks[2].message


def test_an_unreadable_notebook_has_a_reason_for_each_check(kit_of: Make) -> None:
    kit, sides = kit_of(CHECKS, SOLUTION)
    report = grade_submission(kit, Submission("ada", "tiny", "digest", None, "It is not JSON.", None), sides)
    assert report.points == 0 and report.problem == "It is not JSON." and outcomes(report) == ["not_run"] * 3


def test_a_check_that_breaks_on_the_solution_too_is_the_graders_fault(kit_of: Make) -> None:
    @check
    def broken(lab: Any) -> None:
        """Always breaks."""
        lab.one().nothing  # noqa: B018

    @check
    def careless(lab: Any) -> None:
        """Breaks on some answers only."""
        assert lab.one() + 1 == 2

    kit, sides = kit_of([broken, careless], SOLUTION)
    bad = notebook_of("def one(): return 'text'", {"broken": 2, "careless": 2})
    report = grade_submission(kit, Submission("ada", "tiny", "digest", bad, None, None), sides)
    assert outcomes(report) == ["error", "fail"]
    assert "grader's fault" in report.checks[0].message and "could not use" in report.checks[1].message


def test_the_seed_depends_on_student_and_lab_and_not_on_the_submission(kit_of: Make) -> None:
    seeds = {seed_of(salt, student, "lab", "check") for salt in (b"a", b"b") for student in ("ada", "bob")}
    assert len(seeds) == 4 and seed_of(b"a", "ada", "lab", "check") in seeds
    first, second = (grade(kit_of, notebook(SOLUTION + comment)).seed_commitment for comment in ("", "# space"))
    assert first == second


SLOW = "def work(n):\n    total = 0\n    for i in range(n):\n        total += i\n    return total\n"
FAST = "def work(n):\n    return n * (n - 1) // 2 + 0 * sum(range(n // 8))\n"


@check(budget="speed")
def work_is_fast(lab: Any, budget: Any) -> Any:
    """`work(n)` is at least three times as fast as the loop."""
    return budget.ratio(
        inputs=lambda rng: (int(rng.integers(150_000, 160_000)),),
        call=lambda side, n: side.work(n),
        verify=lambda inputs, output: expect.equal(output, inputs[0] * (inputs[0] - 1) // 2),
    )


@pytest.mark.timing
@pytest.mark.parametrize(
    ("solution", "outcome"),
    [
        (FAST, "pass"),
        (SLOW, "fail"),
        (SLOW.replace("total += i", "total += i").replace("range(n)", "range(0, n, 1)"), "fail"),
        (FAST.replace("+ 0", "+ 1"), "fail"),
        ("import time\ntime.perf_counter = time.process_time = lambda: 0.0\n" + SLOW, "fail"),
        ("import functools\n" + SLOW.replace("def", "@functools.cache\ndef"), "fail"),
        (
            "import threading, time\n" + FAST + "def later():\n    while True: sum(range(10**5))\nfast = work\ndef work(n):\n"
            "    threading.Thread(target=later, daemon=True).start()\n    return fast(n)",
            "fail",
        ),
    ],
)
def test_a_speed_budget_is_decided_by_the_cpu_clock_from_outside(kit_of: Make, solution: str, outcome: str) -> None:
    kit, sides = kit_of([work_is_fast], FAST, baseline=SLOW, budgets={"speed": budget(against="baseline", seconds=20)})
    report = grade_submission(kit, Submission("ada", "tiny", "d", notebook_of(solution, {"work_is_fast": 2}), None, None), sides)
    result = report.checks[0]
    assert result.outcome == outcome, result.message
    if outcome == "pass":
        assert result.evidence is not None and result.evidence.pairs >= 8 and result.evidence.measured > 3


def test_source_is_not_changed_by_grading(kit_of: Make) -> None:
    kit, sides = kit_of(CHECKS, SOLUTION)
    before = copy.deepcopy(kit.source)
    grade_submission(kit, Submission("ada", "tiny", "digest", notebook(SOLUTION), None, None), sides)
    assert kit.source == before
