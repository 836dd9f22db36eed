"""The command line: quick help, documented commands, sentences instead of tracebacks, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graders import commands

CLASSROOM = [sys.executable, "-m", "graders.cli"]


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLASSROOM, *words], capture_output=True, text=True, cwd=cwd, timeout=120, env={**os.environ, "COLUMNS": "160"})


@pytest.mark.timing
def test_help_answers_quickly() -> None:
    run("--help")
    cpu = []
    for _ in range(5):
        before = time.clock_gettime(time.CLOCK_MONOTONIC), sum(os.times()[2:4])
        assert run("--help").returncode == 0
        cpu.append(sum(os.times()[2:4]) - before[1])
    assert min(cpu) < 0.3, cpu


def test_every_command_is_listed_and_documented() -> None:
    text = run("--help").stdout
    for name, summary in commands.SUMMARIES.items():
        assert name in text and summary[:40] in text
        page = run(name, "--help")
        assert page.returncode == 0 and len(page.stdout) > 200, page.stderr
    modules = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__", "shared"}
    assert modules == set(commands.SUMMARIES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["grade", "c4_10_hnws"], "c4_10_hnsw"),
        (["grade", "--student", "nobody_here"], "handed in nothing"),
        (["release", "nonsense"], "nonsense"),
        (["check", "missing.ipynb"], "can't be read"),
        (["grade", "--root", "/usr"], "classroom.yml"),
    ],
)
def test_a_mistake_gets_a_sentence_and_code_2(root: Path, words: list[str], sentence: str) -> None:
    result = run(*words, cwd=root)
    assert result.returncode == 2 and sentence in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_an_unknown_option_gets_code_2(root: Path) -> None:
    result = run("grade", "--frobnicate", cwd=root)
    assert result.returncode == 2 and "--frobnicate" in result.stderr


def test_a_broken_calendar_names_line_and_field(root: Path, tmp_path: Path) -> None:
    text = (root / "classroom.yml").read_text()
    (tmp_path / "classroom.yml").write_text(text.replace("late_policy:", "late_polcy:"))
    result = run("grade", cwd=tmp_path)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith("late_policy:"))
    assert result.returncode == 2 and f"classroom.yml:{line}" in result.stderr and 'Did you mean "late_policy"?' in result.stderr


def test_nothing_handed_in_is_said(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "classroom.yml", tmp_path)
    result = run("grade", cwd=tmp_path)
    assert result.returncode == 0 and "Nothing was handed in" in result.stdout


@pytest.mark.slow
def test_a_release_can_be_checked_by_a_student_alone(root: Path, tmp_path: Path) -> None:
    """The released folder works by itself: its own package, no course around it, no hidden check, no reference."""
    lab = "c4_09_simd_search"
    folder = tmp_path / lab
    shutil.copytree(root / "release" / lab, folder)
    paths = f"sys.path = [p for p in sys.path if p not in ('', {str(root)!r})]; sys.path.insert(0, {str(folder)!r})"
    code = f"import sys; {paths}; from graders.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, "check", f"{lab}.ipynb", "--json"], capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["points"] == 0 and len(report["checks"]) >= 8
    assert all(check["outcome"] in ("fail", "not_run") and not check.get("hidden") for check in report["checks"])
