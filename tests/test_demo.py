"""The whole flow on real components: release, a class, grading, gradebook, feedback, nbgrader's own commands, Formgrader in a browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graders.cohort import find_submissions, report_for
from graders.course import Layout, load_course
from graders.report import Report, read_report

pytestmark = [pytest.mark.timing, pytest.mark.slow]

LABS = ("c3_10_serve_model", "c4_09_simd_search", "c4_10_hnsw")
HONEST = ("solution", "empty")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A course folder after `classroom demo`."""
    folder = tmp_path_factory.mktemp("course") / "demo"
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "graders.cli", "demo", "--into", str(folder)], capture_output=True, text=True, cwd=root, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    print(f"demo: {time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f}")
    return folder


@pytest.fixture(scope="module")
def reports(demo: Path) -> dict[tuple[str, str], Report]:
    """(what was handed in, lab) → report."""
    from graders.classmaker import NAMES, submissions

    layout = Layout(demo)
    return {
        (what, lab): read_report(layout.report(student, lab))
        for lab in LABS
        for (what, _), student in zip(submissions(demo, lab), NAMES, strict=False)
        if layout.report(student, lab).exists()
    }


def test_every_submission_of_the_class_was_graded(demo: Path, reports: dict[tuple[str, str], Report]) -> None:
    assert len(reports) == len(find_submissions(demo, [], [])) >= 36
    for lab in LABS:
        assert reports["solution", lab].points == reports["solution", lab].max_points > 0
        assert reports["empty", lab].points == 0
        assert reports["deleted_checks", lab].points == reports["solution", lab].points and reports["deleted_checks", lab].tampering
        assert reports["prints_full_marks", lab].points == 0
        assert reports["broken", lab].points == 0 and "not a notebook" in (reports["broken", lab].problem or "")
        assert reports["exits", lab].points == 0 and "exit status 0" in reports["exits", lab].cell_errors[0].message
        assert reports["garbage", lab].points == 0 and "not a notebook" in (reports["garbage", lab].problem or "")
        assert any("did not finish" in error.message for error in reports["endless", lab].cell_errors)


def test_the_spy_saw_nothing(reports: dict[tuple[str, str], Report]) -> None:
    for lab in LABS:
        assert "secrets in sight: []" in reports["spy", lab].cell_errors[0].message


def test_a_second_run_grades_nothing_and_a_touched_one_is_graded(demo: Path) -> None:
    assert not report_for(demo, "ada", LABS[1]).fresh
    page = Layout(demo).submitted_dir("barbara", LABS[1]) / "note.txt"
    page.write_text("hello")
    assert report_for(demo, "barbara", LABS[1]).fresh
    page.unlink()


def test_the_gradebook_holds_the_reports_scores(demo: Path, reports: dict[tuple[str, str], Report]) -> None:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{demo / 'gradebook.db'}") as gradebook:
        for (_, lab), report in reports.items():
            submission = gradebook.find_submission(lab, report.student)
            assert sum(notebook.score for notebook in submission.notebooks) == pytest.approx(report.points)


class _Wellformed(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.scripts += tag == "script"


def test_every_page_is_there_small_and_inert(demo: Path, reports: dict[tuple[str, str], Report]) -> None:
    layout = Layout(demo)
    assert layout.feedback_index.exists()
    for report in reports.values():
        page = layout.feedback_page(report.student, report.lab)
        assert page.stat().st_size < 300_000
        parser = _Wellformed()
        parser.feed(page.read_text())
        assert parser.scripts == 0
        for check in report.checks:
            assert check.name in page.read_text()


def test_late_work_is_penalised_by_policy(demo: Path) -> None:
    course, layout = load_course(demo), Layout(demo)
    late = [read_report(path) for path in (demo / "autograded").glob("*/*/report.json") if read_report(path).late_seconds > 0]
    assert late
    for report in late:
        assert report.late_penalty == course.late_policy.penalty(report.late_seconds) > 0
    assert layout.gradebook.exists()


def nbgrader(demo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "nbgrader"), *words],
        cwd=demo,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )


def test_nbgraders_own_commands_agree(demo: Path, tmp_path: Path, reports: dict[tuple[str, str], Report]) -> None:
    lab, layout = LABS[1], Layout(demo)
    before = {path: path.read_bytes() for path in layout.release_dir(lab).rglob("*") if path.is_file()}
    result = nbgrader(demo, "generate_assignment", lab, "--force")
    assert result.returncode == 0, result.stderr
    assert before == {path: path.read_bytes() for path in layout.release_dir(lab).rglob("*") if path.is_file()}
    result = nbgrader(demo, "autograde", lab, "--student", "ada", "--force")
    assert result.returncode == 0, result.stderr
    result = nbgrader(demo, "generate_feedback", lab, "--student", "ada", "--force")
    assert result.returncode == 0, result.stderr
    assert (demo / "feedback" / "ada" / lab / f"{lab}.html").exists()
    with sqlite3.connect(demo / "gradebook.db") as database:
        rows = database.execute(
            "select sum(grade.auto_score) from grade join submitted_notebook on grade.notebook_id = submitted_notebook.id "
            "join submitted_assignment on submitted_notebook.assignment_id = submitted_assignment.id "
            "join assignment on submitted_assignment.assignment_id = assignment.id "
            "where submitted_assignment.student_id = 'ada' and assignment.name = ?",
            [lab],
        ).fetchone()
    assert rows[0] == pytest.approx(reports["solution", lab].points)


EXECUTE = """
import json, sys, nbformat
from nbgrader.preprocessors import Execute
from nbgrader.utils import determine_grade
lab = sys.argv[1]
notebook = nbformat.read(f"{lab}.ipynb", as_version=4)
for cell in notebook.cells:
    if "demo" in cell.metadata.get("tags", []):
        cell.source = ""
notebook, _ = Execute(timeout=300).preprocess(notebook, {"metadata": {"path": "."}})
print(json.dumps({c.metadata.nbgrader.grade_id: determine_grade(c)[0] for c in notebook.cells
                  if c.metadata.get("nbgrader", {}).get("grade") and not c.metadata.nbgrader.solution}))
"""


@pytest.mark.parametrize("lab", LABS[1:2])
def test_nbgraders_own_execute_gives_an_honest_submission_the_same_scores(
    demo: Path, tmp_path: Path, root: Path, lab: str, reports: dict[tuple[str, str], Report]
) -> None:
    """In a sandbox, because nbgrader runs the notebook as whoever calls it: no network, nothing writable but a scratch folder."""
    layout = Layout(demo)
    shutil.copy(layout.submitted_dir("ada", lab) / f"{lab}.ipynb", tmp_path)
    shutil.copy(layout.baseline(lab), tmp_path)
    (tmp_path / "execute.py").write_text(EXECUTE)
    walls = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    walls += ["--bind", str(tmp_path), str(tmp_path), "--chdir", str(tmp_path), "--setenv", "HOME", str(tmp_path)]
    result = subprocess.run([*walls, sys.executable, "execute.py", lab], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    scores = json.loads(result.stdout.strip().splitlines()[-1])
    expected = {check.name: check.points for check in reports["solution", lab].checks}
    assert scores == pytest.approx(expected)


@pytest.fixture
def formgrader(demo: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "JUPYTER_CONFIG_DIR": str(demo / ".classroom" / "jupyter")}
    words = [
        str(BIN / "jupyter"),
        "server",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ip=127.0.0.1",
        "--IdentityProvider.token=",
    ]
    words += ["--ServerApp.jpserver_extensions={'nbgrader.server_extensions.formgrader': True}", f"--ServerApp.root_dir={demo}"]
    with open(demo / ".classroom" / "jupyter.log", "w") as log:
        server = subprocess.Popen(words, cwd=demo, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/api", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (demo / ".classroom" / "jupyter.log").read_text()[-2000:]
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_formgrader_shows_the_scores_in_a_browser(formgrader: str, reports: dict[tuple[str, str], Report]) -> None:
    from playwright.sync_api import sync_playwright

    lab = LABS[1]
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        page.goto(f"{formgrader}/formgrader/manage_submissions/{lab}", wait_until="networkidle", timeout=60_000)
        page.wait_for_selector("tbody tr td.score", timeout=60_000)
        text = page.inner_text("table")
        browser.close()
    solution = reports["solution", lab]
    assert "ada" in text and f"{solution.points:g}" in text
