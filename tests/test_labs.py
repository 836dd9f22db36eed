"""Every lab keeps its promise: solution full marks, release nothing, each planted fault exactly its checks; the release is what source yields."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graders.cohort import official
from graders.course import Layout, load_course
from graders.notebook import cells, grade_cells, manual_cells, read
from graders.release import build
from graders.validate import faults, prove_lab

ROOT = Path(__file__).resolve().parents[1]
LABS = [lab.slug for lab in load_course(ROOT).labs]
SUBJECTS = [(lab, subject) for lab in LABS for subject in ["solution", "release", *(fault.name for fault in faults(ROOT, lab))]]


@pytest.mark.proof
@pytest.mark.parametrize(("lab", "subject"), SUBJECTS)
def test_the_lab_grades_as_it_should(lab: str, subject: str) -> None:
    (proof,) = prove_lab(ROOT, lab, only=subject)
    assert not proof.problems, "\n".join(proof.problems)


@pytest.mark.parametrize("lab", LABS)
def test_the_committed_release_is_what_source_yields(lab: str, tmp_path: Path) -> None:
    built = build(ROOT, lab, tmp_path, database=False)
    committed = Layout(ROOT).release_dir(lab)
    names = {path.relative_to(built) for path in built.rglob("*") if path.is_file()}
    ours = {path.relative_to(committed) for path in committed.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == ours
    stale = [str(name) for name in sorted(names) if (built / name).read_bytes() != (committed / name).read_bytes()]
    assert not stale, f"run `classroom release {lab}`: {stale}"


@pytest.mark.parametrize("lab", LABS)
def test_the_lab_is_complete(lab: str) -> None:
    layout = Layout(ROOT)
    source = read(layout.source_notebook(lab))
    kit, _ = official(ROOT, lab)
    planted = faults(ROOT, lab)
    assert len(planted) >= 6
    assert {cell.check for cell in grade_cells(source)} == set(kit.checks), "one grade cell for each check"
    assert {name for fault in planted for name in fault.fails} >= {name for name in kit.checks if kit.checks[name].budget}, (
        "each budget has a fault"
    )
    assert {check.budget for check in kit.checks.values() if check.budget} == set(kit.budgets.budgets)
    assert manual_cells(source) and layout.baseline(lab).exists() and (layout.source_dir(lab) / "README.md").exists()
    assert all("outputs" not in cell or not cell["outputs"] for cell in source["cells"])
    ids = [cell.id for cell in cells(source)]
    assert len(set(ids)) == len(ids) and all(any(letter.isalpha() for letter in name) for name in ids)
    text = "".join(cell["source"] for cell in source["cells"])
    assert "DATABRICKS_HOST" in text, "every lab ends with its managed-platform parallel"


@pytest.mark.proof
@pytest.mark.parametrize("lab", LABS)
def test_each_check_passes_where_it_stands_in_the_notebook(lab: str, tmp_path: Path) -> None:
    """As a student sees it: cells run from the top in one process, and each check finds what it needs already defined."""
    code = RUN_FROM_THE_TOP.format(lab=lab)
    for name in (f"{lab}.ipynb", "baseline.py"):
        shutil.copy(Layout(ROOT).source_dir(lab) / name, tmp_path)
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr == "" and "missing" not in result.stdout.splitlines()[-1], result.stdout[-3000:]


RUN_FROM_THE_TOP = """
import json
from graders.checks import load_checks
budgets = {{name for name, check in load_checks("{lab}").items() if check.budget}}
cells = [cell for cell in json.load(open("{lab}.ipynb"))["cells"] if cell["cell_type"] == "code"]
names, earned, expected = {{"__name__": "__main__"}}, 0, 0
for cell in cells:
    meta, source = cell["metadata"].get("nbgrader", {{}}), "".join(cell["source"])
    if "demo" in cell["metadata"].get("tags", []) or meta.get("grade_id") in budgets:
        continue
    if meta.get("grade"):
        value = eval(source, names)
        assert type(value) is float
        earned, expected = earned + value, expected + meta["points"]
    else:
        exec(source, names)
print("all", earned) if earned == expected else print("missing", expected - earned)
"""
