"""Scores reach nbgrader's gradebook exactly as the report has them, through `record` and through nbgrader's own commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from test_release import ENGINE, LAB, cell, make_course, nbgrader, notebook, source_cells, write_notebook

from graders import public
from graders.course import Layout
from graders.gradebook import GradebookError, record
from graders.release import ReleaseError
from graders.report import CellError, CheckResult, Counterexample, Machine, Report

MACHINE = Machine(cpu="x", cores=1, python="3.11", platform="linux", load=0.0)


def check(name: str, points: float, most: float, **more: object) -> CheckResult:
    outcome = "pass" if points == most else "partial" if points else "fail"
    return CheckResult(
        name=name, kind="test", sentence=f"`{name}` holds.", outcome=outcome, fraction=points / most, points=points, max_points=most, **more
    )


def report_of(student: str, *points: float, **more: object) -> Report:
    checks = [check("mean_is_exact", points[0], 3), check("mean_of_nothing", points[1], 2)] if points else []
    fields = {"course": "tiny", "lab": LAB, "student": student, "submission": "0" * 64, "graded_at": "2027-01-12T00:00:00+00:00"}
    return Report(**fields, isolation="full", checks=checks, points=sum(points), max_points=5, machine=MACHINE, **more)


def hand_in(root: Path, student: str, answer: str = "Because.", cells: list[dict] | None = None) -> None:
    nodes = cells if cells is not None else source_cells()
    for node in nodes:
        if node["id"] == "mean":
            node["source"] = "def mean(values):\n    return sum(values) / len(values)"
        if node["id"] == "why":
            node["source"] = answer
    write_notebook(Layout(root).submitted_notebook(student, LAB), nodes)


@pytest.fixture(scope="module")
def empty_gradebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nbgrader.api import Gradebook

    from graders.nbgrader_bridge import find_alembic

    find_alembic()
    path = tmp_path_factory.mktemp("gradebook") / "gradebook.db"
    Gradebook(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def course(tmp_path: Path, empty_gradebook: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(public, "ENGINE", ENGINE)
    root = make_course(tmp_path / "course")
    shutil.copy(empty_gradebook, Layout(root).gradebook)
    return root


def grades(root: Path, student: str) -> dict[str, tuple[float | None, float | None, bool]]:
    """grade id → (automatic score, manual score, needs a TA)."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{Layout(root).gradebook}") as gradebook:
        found = gradebook.find_submission_notebook(LAB, LAB, student).grades
        return {grade.name: (grade.auto_score, grade.manual_score, grade.needs_manual_grade) for grade in found}


def score_by_hand(root: Path, student: str, grade_id: str, score: float) -> None:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{Layout(root).gradebook}") as gradebook:
        grade = gradebook.find_grade(grade_id, LAB, LAB, student)
        grade.manual_score, grade.needs_manual_grade = score, False
        gradebook.db.commit()


def test_the_gradebook_has_exactly_the_reports_points(course: Path) -> None:
    hand_in(course, "ada")
    hand_in(course, "bob")
    done: list[str] = []
    record(course, [report_of("ada", 3.0, 0.1 + 0.2), report_of("bob", 0.0, 2.0)], done.append)
    assert done == [f"ada {LAB}", f"bob {LAB}"]
    assert grades(course, "ada") == {
        "mean_is_exact": (3.0, None, False),
        "mean_of_nothing": (0.1 + 0.2, None, False),
        "why": (None, None, True),
    }
    assert grades(course, "bob")["mean_is_exact"] == (0.0, None, False)


def test_the_autograded_notebook_shows_each_check_and_each_error(course: Path) -> None:
    hand_in(course, "ada")
    report = report_of("ada", 0.0, 2.0, cell_errors=[CellError(cell=3, grade_id="mean", message="NameError: <b>x</b>", traceback="cell 3")])
    report.checks[0].message = "<script>alert(1)</script>"
    report.checks[0].counterexample = Counterexample(call="mean([<1>])")
    record(course, [report], None)
    cells = {node["id"]: node for node in json.loads(Layout(course).autograded_notebook("ada", LAB).read_text())["cells"]}
    [output] = cells["mean-is-exact"]["outputs"]
    assert output["output_type"] == "execute_result"
    assert "".join(output["data"]["text/plain"]) == "0.0"
    shown = "".join(output["data"]["text/html"])
    assert "&lt;script&gt;" in shown and "mean([&lt;1&gt;])" in shown and "<script>" not in shown
    assert cells["mean"]["outputs"][0]["ename"] == "NameError"
    assert not any(output.get("name") == "stderr" for node in cells.values() for output in node.get("outputs", []))


def test_a_hidden_check_tells_its_outcome_only(course: Path) -> None:
    hand_in(course, "ada")
    report = report_of("ada", 0.0, 2.0)
    report.checks[0].hidden, report.checks[0].message = True, "at 0.123 you said 4"
    record(course, [report], None)
    assert "0.123" not in Layout(course).autograded_notebook("ada", LAB).read_text()


def test_a_tampered_notebook_gets_the_reports_points(course: Path) -> None:
    nodes = [node for node in source_cells() if node["id"] not in ("imports", "mean-is-exact", "why")]
    nodes[-2]["metadata"]["nbgrader"]["points"] = 99
    nodes.append(cell("gift", "100", grade=True, locked=True, points=100, grade_id="gift"))
    nodes.append({**cell("odd", "1"), "metadata": {"nbgrader": "nonsense"}})
    hand_in(course, "eve", cells=nodes)
    record(course, [report_of("eve", 1.5, 2.0)], None)
    assert grades(course, "eve") == {"mean_is_exact": (1.5, None, False), "mean_of_nothing": (2.0, None, False), "why": (0.0, None, False)}


@pytest.mark.parametrize("data", [b"not json", b'{"cells": []}'])
def test_an_unreadable_submission_has_an_entry_with_score_zero(course: Path, data: bytes) -> None:
    path = Layout(course).submitted_notebook("eve", LAB)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    record(course, [report_of("eve", problem="The notebook can't be read.")], None)
    assert {scores[0] for scores in grades(course, "eve").values()} == {0.0}
    assert [file.name for file in Layout(course).autograded_dir("eve", LAB).iterdir()] == ["report.json"]


def test_a_notebook_that_is_a_link_is_not_followed(course: Path) -> None:
    path = Layout(course).submitted_notebook("eve", LAB)
    path.parent.mkdir(parents=True)
    path.symlink_to(Layout(course).source_notebook(LAB))
    record(course, [report_of("eve", problem="A link.")], None)
    assert not Layout(course).autograded_notebook("eve", LAB).exists()


def test_scores_given_by_hand_survive_a_regrade(course: Path) -> None:
    hand_in(course, "ada")
    record(course, [report_of("ada", 3.0, 2.0)], None)
    score_by_hand(course, "ada", "why", 3.5)
    score_by_hand(course, "ada", "mean_is_exact", 1.0)

    record(course, [report_of("ada", 3.0, 2.0)], None)
    assert grades(course, "ada")["why"] == (None, 3.5, False)
    assert grades(course, "ada")["mean_is_exact"] == (3.0, 1.0, False)

    hand_in(course, "ada", answer="On second thoughts.")
    record(course, [report_of("ada", 0.0, 2.0)], None)
    assert grades(course, "ada")["why"] == (None, 3.5, True)
    assert grades(course, "ada")["mean_is_exact"] == (0.0, 1.0, True)


def test_a_late_penalty_is_a_share_of_the_score(course: Path) -> None:
    from nbgrader.api import Gradebook

    hand_in(course, "ada")
    late = report_of("ada", 3.0, 2.0, submitted_at="2027-01-13T10:00:00+01:00", late_seconds=1.0, late_penalty=0.2)
    record(course, [late], None)
    with Gradebook(f"sqlite:///{Layout(course).gradebook}") as gradebook:
        submission = gradebook.find_submission(LAB, "ada")
        assert submission.timestamp.isoformat() == "2027-01-13T09:00:00"
        assert submission.assignment.duedate.isoformat() == "2027-01-11T22:59:00"
        assert gradebook.find_submission_notebook(LAB, LAB, "ada").late_submission_penalty == pytest.approx(1.0)
    record(course, [report_of("ada", 3.0, 2.0)], None)
    with Gradebook(f"sqlite:///{Layout(course).gradebook}") as gradebook:
        assert gradebook.find_submission_notebook(LAB, LAB, "ada").late_submission_penalty is None


def test_a_report_that_does_not_fit_the_notebook_is_named_and_stops_no_other(course: Path) -> None:
    hand_in(course, "ada")
    hand_in(course, "bob")
    odd = report_of("ada", 3.0, 2.0)
    odd.checks.append(check("unknown", 1.0, 1.0))
    with pytest.raises(GradebookError, match=f"{LAB} of ada: the check `unknown` earned 1 points, but the gradebook has None"):
        record(course, [odd, report_of("bob", 3.0, 2.0)], None)
    assert grades(course, "bob")["mean_is_exact"] == (3.0, None, False)


# What stands in for grading in nbgrader's own process: the report that the test has laid ready.
GRADED = """
from pathlib import Path
from graders import cohort
from graders.report import read_report
cohort.require_isolation = lambda course: None
cohort.report_for = lambda root, student, lab: cohort.Graded(student, lab, read_report(Path("ready", student + ".json")), None, True)
"""


def lay_ready(root: Path, report: Report) -> None:
    (root / "ready").mkdir(exist_ok=True)
    (root / "ready" / f"{report.student}.json").write_bytes(msgspec.json.encode(report))


def test_nbgraders_own_commands_record_the_same_scores(course: Path) -> None:
    """generate_assignment, autograde and generate_feedback, with a submission whose code would leave a file if it were run."""
    nodes = source_cells()
    nodes.insert(3, cell("evil", "import pathlib; pathlib.Path('ran').touch()"))
    del nodes[4]  # a check, after the read-only and solution cells
    hand_in(course, "ada", cells=nodes)
    (Layout(course).submitted_dir("ada", LAB) / "report.json").write_text("forged")
    lay_ready(course, report_of("ada", 1.25, 2.0, late_penalty=0.5, submitted_at="2027-01-12T00:00:00+00:00"))
    linked = Layout(course).submitted_dir("eve", LAB)
    hand_in(course, "eve")
    (linked / "data.csv").symlink_to(Layout(course).gradebook)
    lay_ready(course, report_of("eve", 3.0, 2.0))

    assert nbgrader(course, "generate_assignment", LAB).returncode == 0
    done = nbgrader(course, "autograde", LAB, "--student=ada", prelude=GRADED)
    assert done.returncode == 0, done.stderr
    assert grades(course, "ada") == {"mean_is_exact": (1.25, None, False), "mean_of_nothing": (2.0, None, False), "why": (None, None, True)}
    assert not list(course.rglob("ran"))
    assert not Layout(course).report("ada", LAB).exists()

    refused = nbgrader(course, "autograde", LAB, "--student=eve", prelude=GRADED)
    assert refused.returncode != 0
    assert "is a link" in refused.stderr
    assert not Layout(course).autograded_dir("eve", LAB).exists()

    done = nbgrader(course, "generate_feedback", LAB, "--student=ada")
    assert done.returncode == 0, done.stderr
    assert "1.25 of 3 points" in (course / "feedback" / "ada" / LAB / f"{LAB}.html").read_text()

    by_command = json.loads(Layout(course).autograded_notebook("ada", LAB).read_text())
    record(course, [report_of("ada", 1.25, 2.0)], None)
    assert json.loads(Layout(course).autograded_notebook("ada", LAB).read_text()) == by_command


def test_formgraders_button_records_the_report(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbgrader.apps.api import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory

    from graders import cohort
    from graders.nbgrader_bridge import load_config

    monkeypatch.setattr(cohort, "require_isolation", lambda course: None)
    monkeypatch.setattr(
        cohort, "report_for", lambda root, student, lab: cohort.Graded(student, lab, report_of(student, 0.5, 2.0), None, True)
    )
    hand_in(course, "ada")
    config = load_config(course)
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    assert api.generate_assignment(LAB)["success"]
    result = api.autograde(LAB, "ada")
    assert result["success"], result["error"]
    assert grades(course, "ada")["mean_is_exact"] == (0.5, None, False)


def test_a_check_added_after_submissions_is_refused(course: Path) -> None:
    hand_in(course, "ada")
    record(course, [report_of("ada", 3.0, 2.0)], None)
    late = cell("late", 'check("late")', grade=True, locked=True, points=1, grade_id="late")
    write_notebook(Layout(course).source_notebook(LAB), [*source_cells(), late])
    with pytest.raises(ReleaseError, match="there are submissions associated with it. Take the change back"):
        record(course, [report_of("ada", 3.0, 2.0)], None)


def test_a_broken_course_file_leaves_nbgrader_safe(course: Path) -> None:
    """nbgrader drops a configuration that raises and would fall back to running the code itself."""
    from graders.nbgrader_bridge import load_config

    (course / "classroom.yml").write_text("name: [")
    assert "graders.nbgrader_bridge.EngineExecute" in load_config(course).Autograde.autograde_preprocessors


def test_notebook_fixture_is_a_valid_lab() -> None:
    import nbformat

    nbformat.validate(nbformat.from_dict(notebook(source_cells())))
