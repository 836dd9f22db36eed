"""A release holds what students need, tells no secret, and is the same whoever makes it: `release`, or nbgrader's own command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from graders import public
from graders.course import Layout
from graders.leaks import LeakError, prove_clean
from graders.notebook import NotebookError
from graders.public import PublicError, public_files, pyproject
from graders.release import ReleaseError, build, release

REPOSITORY = Path(__file__).resolve().parents[1]
LAB = "c0_01_mean"
ENGINE = ("__init__.py", "labs/__init__.py", "problems.py", "strategies.py")

SOLUTION = """\
def mean(values):
    "The arithmetic mean of a list of numbers, 0.0 when it is empty."
    ### BEGIN SOLUTION
    accumulated = math.fsum(values)
    counted = len(values) or 1
    quotient = accumulated / counted
    return float(quotient)
    ### END SOLUTION"""


def cell(id: str, source: str, cell_type: str = "code", tags: list[str] | None = None, **nbgrader: object) -> dict:
    """One notebook cell; keyword arguments become its nbgrader metadata."""
    metadata: dict = {"tags": tags} if tags else {}
    if nbgrader:
        metadata["nbgrader"] = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False, **nbgrader}
    node = {"cell_type": cell_type, "id": id, "metadata": metadata, "source": source}
    return node | ({"outputs": [], "execution_count": None} if cell_type == "code" else {})


def source_cells() -> list[dict]:
    """A lab in seven cells: text, imports, a solution, two checks, a demo and a question."""
    opening = f'import math\nfrom graders import open_lab\ncheck = open_lab("{LAB}", globals())'
    return [
        cell("title", "# The mean\n\nWrite `mean`.", "markdown"),
        cell("imports", opening, locked=True, grade_id="imports"),
        cell("mean", SOLUTION, solution=True, grade_id="mean"),
        cell("mean-is-exact", 'check("mean_is_exact")', grade=True, locked=True, points=3, grade_id="mean_is_exact"),
        cell("mean-of-nothing", 'check("mean_of_nothing")', grade=True, locked=True, points=2, grade_id="mean_of_nothing"),
        cell("picture", "mean([1, 2, 3, 4])", tags=["demo"]),
        cell(
            "why",
            "Rounding errors of a running sum grow with its length, and fsum keeps them exactly.",
            "markdown",
            grade=True,
            solution=True,
            points=4,
            grade_id="why",
        ),
    ]


def notebook(cells: list[dict]) -> dict:
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def write_notebook(path: Path, cells: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(cells)))


BASELINE = """\
def mean(values):
    "A running sum."
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else 0.0
"""
REFERENCE = """\
import math

def mean(values):
    exactly_rounded = math.fsum(values)
    return exactly_rounded / len(values)
"""
FILES = {
    "classroom.yml": f"""\
name: tiny
title: A tiny course
term: Spring 2027
timezone: Europe/Zurich
labs:
  - {{slug: {LAB}, title: The mean, course_part: C3, week: 1, released: 2027-01-04 08:00, due: 2027-01-11 23:59, minutes: 30}}
""",
    f"source/{LAB}/README.md": "# The mean\n\nWrite the mean of a list; half an hour.\n",
    f"source/{LAB}/baseline.py": BASELINE,
    f"graders/labs/{LAB}/__init__.py": 'REQUIRES = ["hnswlib>=0.8"]\n',
    f"graders/labs/{LAB}/checks.py": 'from graders import open_lab\n\ndef mean_is_exact(lab):\n    """`mean` is exact."""\n',
    f"graders/labs/{LAB}/hidden.py": "secret_values = [0.1] * 10_000 + [1e16, -1e16]\n",
    f"graders/labs/{LAB}/faults/integer.py": '"""Divides integers."""\nFAILS = {"mean_is_exact"}\n# %% mean\ndef mean(values):\n'
    "    return sum(values) // max(len(values), 1)\n",
    "reference/mean.py": REFERENCE,
    f"perf_budgets/{LAB}.yml": f"""\
lab: {LAB}
reference: reference.mean
budgets:
  mean_speed:
    kind: slowdown
    against: reference
    reference_over_baseline: 4.0
    tiers: [{{credit: 1.0, limit: 2.0}}]
    receipt: {{machine: none, date: 2026-11-21, command: none, measured: {{solution: 1.0}}}}
""",
}


def make_course(root: Path) -> Path:
    """Write a course with one tiny lab and the repository's nbgrader_config.py."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    write_notebook(Layout(root).source_notebook(LAB), source_cells())
    shutil.copy(REPOSITORY / "nbgrader_config.py", root)
    return root


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(public, "ENGINE", ENGINE)
    return make_course(tmp_path / "course")


def built(root: Path) -> Path:
    """The release of the tiny lab, made without a gradebook."""
    workshop = root / "built"
    shutil.rmtree(workshop, ignore_errors=True)
    return build(root, LAB, workshop, database=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nbgrader(root: Path, *arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run nbgrader's command line in `root`; `prelude` is Python that runs before it."""
    script = f"from graders import public; public.ENGINE = {ENGINE!r}\n{prelude}\nfrom nbgrader.apps.nbgraderapp import main; main()"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(root),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_release_is_byte_stable_and_equal_to_nbgraders_own_command(course: Path) -> None:
    done: list[str] = []
    [folder] = release(course, [LAB], progress=done.append)
    assert done == [LAB]
    first = contents(folder)
    release(course, [LAB])
    assert contents(folder) == first

    shutil.rmtree(folder)
    done = nbgrader(course, "generate_assignment", LAB)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == first


def test_release_holds_what_a_student_needs(course: Path) -> None:
    files = contents(built(course))
    assert set(files) == {
        f"{LAB}.ipynb",
        "README.md",
        "baseline.py",
        "pyproject.toml",
        f"perf_budgets/{LAB}.yml",
        "graders/__init__.py",
        "graders/labs/__init__.py",
        "graders/problems.py",
        "graders/strategies.py",
        f"graders/labs/{LAB}/__init__.py",
        f"graders/labs/{LAB}/checks.py",
    }
    project = tomllib.loads(files["pyproject.toml"].decode())["project"]
    assert project["name"] == LAB
    assert project["scripts"] == {"classroom": "graders.cli:main"}
    assert {"hnswlib>=0.8", "numpy>=2.2", "jupyterlab>=4.4"} <= set(project["dependencies"])


def test_release_strips_solutions_and_keeps_demos_and_locks(course: Path) -> None:
    folder = built(course)
    cells = {cell["id"]: cell for cell in json.loads((folder / f"{LAB}.ipynb").read_text())["cells"]}
    assert "".join(cells["mean"]["source"]).endswith("    # YOUR CODE HERE\n    raise NotImplementedError()")
    assert "".join(cells["why"]["source"]) == "YOUR ANSWER HERE"
    assert "".join(cells["picture"]["source"]) == "mean([1, 2, 3, 4])"
    assert cells["imports"]["metadata"]["editable"] is False
    assert len(cells["mean-is-exact"]["metadata"]["nbgrader"]["checksum"]) == 32


def test_kernel_and_editor_metadata_do_not_reach_a_release(course: Path) -> None:
    first = contents(built(course))
    source = json.loads(Layout(course).source_notebook(LAB).read_text())
    source["metadata"] = {"language_info": {"name": "python", "version": "3.11.7"}, "kernelspec": {"name": "x", "display_name": "x"}}
    source["cells"][1]["metadata"]["execution"] = {"iopub.execute_input": "2027-01-01T00:00:00Z"}
    Layout(course).source_notebook(LAB).write_text(json.dumps(source))
    assert contents(built(course)) == first


def test_build_leaves_the_gradebook_alone(course: Path) -> None:
    assert (built(course) / f"{LAB}.ipynb").is_file()
    assert not Layout(course).gradebook.exists()


def plant_in_notebook(root: Path, id: str, source: str) -> None:
    cells = source_cells()
    next(cell for cell in cells if cell["id"] == id)["source"] = source
    write_notebook(Layout(root).source_notebook(LAB), cells)


LEAKS = {
    "a solution in a forgotten file": ("notes.md", "accumulated = math.fsum(values)\n", "notes.md, line 1"),
    "a hidden check": ("data.txt", "x\nsecret_values =  [0.1] * 10_000 + [1e16, -1e16]\n", "data.txt, line 2"),
    "a planted fault": ("helper.py", "\n\n    return sum(values) // max(len(values), 1)\n", "helper.py, line 3"),
    "the reference": ("helper.py", "exactly_rounded = math.fsum(values)\n", "helper.py, line 1"),
    "a folder of that name": ("faults/x.txt", "nothing\n", "faults/x.txt"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_in_a_side_file_is_refused(course: Path, name: str) -> None:
    path, text, place = LEAKS[name]
    planted = Layout(course).source_dir(LAB) / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(text)
    with pytest.raises(LeakError) as refusal:
        built(course)
    assert f"release/{LAB}/{place}" in refusal.value.sentences[0]
    assert not list((course / "built").iterdir())


def test_a_solution_copied_into_a_public_check_is_refused(course: Path) -> None:
    checks = Layout(course).checks_dir(LAB) / "checks.py"
    lines = [line.strip() for line in SOLUTION.split("\n")[3:6]]
    checks.write_text("def oracle(values):\n" + "".join(f"    {line}\n" for line in lines))
    with pytest.raises(LeakError, match=rf"checks\.py, line 2: 3 lines in a row stand in source/{LAB}/{LAB}\.ipynb, cell 3, line 4"):
        built(course)


def test_one_line_that_a_check_shares_with_the_solution_is_no_leak(course: Path) -> None:
    checks = Layout(course).checks_dir(LAB) / "checks.py"
    checks.write_text("def oracle(values):\n    accumulated = math.fsum(values)\n    return accumulated\n")
    built(course)


def test_a_solution_in_a_demo_cell_is_refused(course: Path) -> None:
    plant_in_notebook(course, "picture", "\n".join(line.strip() for line in SOLUTION.split("\n")[3:7]))
    with pytest.raises(LeakError, match=rf"{LAB}\.ipynb, cell 6, line 1: 3 lines in a row"):
        built(course)


def test_a_leak_in_a_release_on_disk_is_named(course: Path) -> None:
    folder = built(course)
    path = folder / f"{LAB}.ipynb"
    stripped = json.loads(path.read_text())
    stripped["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "quotient = accumulated / counted"}]
    stripped["cells"][3]["execution_count"] = 7
    path.write_text(json.dumps(stripped))
    budgets = folder / "perf_budgets" / f"{LAB}.yml"
    budgets.write_text(f"lab: {LAB}\nreference: reference.mean\n")
    with pytest.raises(LeakError) as refusal:
        prove_clean(course, LAB, folder)
    text = str(refusal.value)
    assert "cell 3: has an output" in text
    assert "cell 4: has an execution count" in text
    assert "cell 3 beside its source, line" in text
    assert f"perf_budgets/{LAB}.yml, line 2: names a module of the reference" in text


def test_outputs_of_the_source_are_secret(course: Path) -> None:
    cells = source_cells()
    cells[5]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "the expected answer is 2.5"}]
    write_notebook(Layout(course).source_notebook(LAB), cells)
    (Layout(course).source_dir(LAB) / "log.txt").write_text("the expected answer is 2.5\n")
    with pytest.raises(LeakError, match=r"log\.txt, line 1: stands in an output of"):
        built(course)


def test_nbgraders_own_command_refuses_a_leak_too(course: Path) -> None:
    (Layout(course).source_dir(LAB) / "notes.md").write_text("accumulated = math.fsum(values)\n")
    done = nbgrader(course, "generate_assignment", LAB)
    assert done.returncode != 0
    assert f"release/{LAB}/notes.md, line 1" in done.stderr
    assert not Layout(course).release_dir(LAB).exists()


def test_a_refused_release_leaves_the_last_one(course: Path) -> None:
    [folder] = release(course, [LAB])
    first = contents(folder)
    (Layout(course).source_dir(LAB) / "notes.md").write_text("accumulated = math.fsum(values)\n")
    with pytest.raises(LeakError):
        release(course, [LAB])
    assert contents(folder) == first
    assert [path.name for path in (course / "release").iterdir()] == [LAB]


def test_an_unclosed_solution_is_refused_with_its_cause(course: Path) -> None:
    plant_in_notebook(course, "mean", SOLUTION.replace("    ### END SOLUTION", ""))
    with pytest.raises(ReleaseError, match="no end solution statement"):
        built(course)


def test_cells_without_ids_are_refused(course: Path) -> None:
    cells = source_cells()
    del cells[2]["id"]
    write_notebook(Layout(course).source_notebook(LAB), cells)
    with pytest.raises(NotebookError, match="each cell needs an id"):
        built(course)


@pytest.mark.parametrize("line", ["from reference import mean", "from graders.labs.c0_01_mean import hidden", "from . import hidden"])
def test_checks_may_not_import_what_is_never_shipped(course: Path, line: str) -> None:
    (Layout(course).checks_dir(LAB) / "checks.py").write_text(f"{line}\n")
    with pytest.raises(PublicError, match=r"checks\.py:1: imports .*, which is never shipped"):
        public_files(course, LAB)


def test_checks_may_import_a_module_of_their_lab(course: Path) -> None:
    (Layout(course).checks_dir(LAB) / "checks.py").write_text("from . import corpus\n")
    (Layout(course).checks_dir(LAB) / "corpus.py").write_text("WORDS = ()\n")
    assert f"graders/labs/{LAB}/corpus.py" in public_files(course, LAB)


def test_what_a_shipped_module_imports_is_shipped(course: Path) -> None:
    (Layout(course).checks_dir(LAB) / "checks.py").write_text("from graders.verdict import Limits\n")
    with pytest.raises(PublicError, match=r"imports graders\.verdict\.Limits, which is not shipped"):
        public_files(course, LAB)


def test_budgets_of_hidden_checks_are_not_shipped(course: Path) -> None:
    (Layout(course).checks_dir(LAB) / "hidden.py").write_text('@check(budget="mean_speed")\ndef mean_is_fast(lab, budget): ...\n')
    assert b"mean_speed" not in public_files(course, LAB)[f"perf_budgets/{LAB}.yml"]


def test_the_engine_that_ships_is_complete() -> None:
    """Every module on the list exists, and none imports at its top what is not on it."""
    files = {f"graders/{path}": (REPOSITORY / "graders" / path).read_bytes() for path in public.engine_paths()}
    public._prove_importable(files)


def test_release_and_course_ask_for_the_same_versions() -> None:
    course = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    ours = set(course["project"]["dependencies"]) | set(course["dependency-groups"]["instructor"])
    assert set(tomllib.loads(pyproject("x"))["project"]["dependencies"]) <= ours
