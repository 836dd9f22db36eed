"""Intake and cohort: any folder as a submission gives a sentence, never an exception, and the hash covers what was handed in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest

from graders.cohort import course_salt, find_submissions, grader_version
from graders.course import CourseError
from graders.report import ReportError, read_report, write_atomically
from graders.submission import MAX_NOTEBOOK_BYTES, read_submission

GOOD = json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]))


def read(folder: Path):  # type: ignore[no-untyped-def]
    return read_submission(folder, "ada", "lab")


def test_a_good_notebook_is_read(tmp_path: Path) -> None:
    (tmp_path / "lab.ipynb").write_text(GOOD)
    submission = read(tmp_path)
    assert submission.problem is None and submission.notebook["cells"][0]["source"] == "x = 1"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a notebook"),
        (os.urandom(1000), "not"),
        (b'{"cells": [', "not a notebook"),
        (b"[1, 2]", "not a notebook"),
        (b'{"nbformat": 3, "worksheets": []}', "format 3"),
        (GOOD.replace('"nbformat": 4', '"nbformat": 5').encode(), "5"),
        (GOOD.replace("x = 1", "x").replace('"metadata": {}', '"metadata": NaN').encode(), "NaN"),
        (b"\xff\xfe" + GOOD.encode("utf-16le"), "UTF-8"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_what_is_no_notebook_gets_a_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "lab.ipynb").write_bytes(data)
    submission = read(tmp_path)
    assert submission.notebook is None and words in (submission.problem or ""), submission.problem


def test_links_pipes_and_giants_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ipynb"
    secret.write_text(GOOD)
    for name, make in {"link": lambda path: path.symlink_to(secret), "pipe": os.mkfifo, "folder": os.mkdir}.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder / "lab.ipynb")
        assert read(folder).notebook is None and read(folder).problem
    giant = tmp_path / "giant"
    giant.mkdir()
    with open(giant / "lab.ipynb", "wb") as file:
        file.truncate(MAX_NOTEBOOK_BYTES + 1)
    assert "at most 20 MB" in (read(giant).problem or "")
    assert "no lab.ipynb" in (read(tmp_path / "nowhere").problem or "")


def test_the_digest_covers_every_file_and_no_clock(tmp_path: Path) -> None:
    (tmp_path / "lab.ipynb").write_text(GOOD)
    first = read(tmp_path).digest
    os.utime(tmp_path / "lab.ipynb", (1, 1))
    assert read(tmp_path).digest == first
    (tmp_path / "data.csv").write_text("1")
    second = read(tmp_path).digest
    (tmp_path / "data.csv").write_text("2")
    assert len({first, second, read(tmp_path).digest}) == 3


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-04-02 18:03:11 UTC", "2027-04-02T18:03:11+00:00"),
        ("2027-04-02 18:03:11", "2027-04-02T18:03:11+00:00"),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_timestamp_is_nbgraders(tmp_path: Path, text: str, moment: str | None) -> None:
    (tmp_path / "timestamp.txt").write_text(text)
    submitted = read(tmp_path).submitted_at
    assert (submitted.isoformat() if submitted else None) == moment


def test_the_salt_is_secret_and_stays(tmp_path: Path) -> None:
    salt = course_salt(tmp_path)
    assert len(salt) == 32 and course_salt(tmp_path) == salt
    assert (tmp_path / ".classroom" / "salt").stat().st_mode & 0o077 == 0


def test_the_graders_version_changes_with_what_decides_a_score(root: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("graders", "reference", "perf_budgets", "source"):
        shutil.copytree(root / name, tmp_path / name)
    lab = "c4_10_hnsw"
    first = grader_version(tmp_path, lab)
    (tmp_path / "source" / "c4_09_simd_search" / "README.md").write_text("other lab")
    assert grader_version(tmp_path, lab) == first
    for path in ("perf_budgets/c4_10_hnsw.yml", "graders/verdict.py", "reference/hnsw.py", "graders/labs/c4_10_hnsw/checks.py"):
        (tmp_path / path).write_text((tmp_path / path).read_text() + "\n#\n")
        changed = grader_version(tmp_path, lab)
        assert changed != first
        first = changed


def test_only_real_folders_are_submissions(root: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copy(root / "classroom.yml", tmp_path)
    (tmp_path / "submitted" / "ada" / "c4_10_hnsw").mkdir(parents=True)
    (tmp_path / "submitted" / "README.md").write_text("x")
    (tmp_path / "submitted" / "eve").symlink_to("/")
    assert find_submissions(tmp_path, [], []) == [("ada", "c4_10_hnsw")]
    with pytest.raises(CourseError, match="handed in nothing"):
        find_submissions(tmp_path, [], ["bob"])


def test_a_broken_or_older_report_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for data, words in (
        (b"{", "not a valid report"),
        (b'{"schema": "classroom/report/v0"}', "its schema is"),
        (b"\xff", "not a valid report"),
    ):
        write_atomically(path, data)
        with pytest.raises(ReportError, match=words):
            read_report(path)
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]
