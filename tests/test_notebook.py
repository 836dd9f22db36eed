"""Reading notebooks: clear refusals, the kinds of cell, and what of a tampered submission is run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest

from graders.notebook import NotebookError, cells, code_to_run, grade_cells, manual_cells, parse, restore, split_regions


def cell(id: str, source: str, cell_type: str = "code", tags: list[str] | None = None, **nbgrader: object) -> dict:
    metadata: dict = {"tags": tags} if tags else {}
    if nbgrader:
        metadata["nbgrader"] = {"schema_version": 3, "grade": False, "solution": False, "locked": False, **nbgrader}
    node = {"cell_type": cell_type, "id": id, "metadata": metadata, "source": source}
    return node | ({"outputs": [], "execution_count": None} if cell_type == "code" else {})


def source_cells() -> list[dict]:
    return [
        cell("title", "# The mean", "markdown"),
        cell("imports", "import math", locked=True, grade_id="imports"),
        cell("mean", "def mean(v):\n    ### BEGIN SOLUTION\n    return math.fsum(v)\n    ### END SOLUTION", solution=True, grade_id="mean"),
        cell("exact", 'check("exact")', grade=True, locked=True, points=3, grade_id="exact"),
        cell("picture", "plot(mean)", tags=["demo"]),
        cell("helper", "N = 3", locked=True, grade_id="helper"),
        cell("empty", 'check("empty")', grade=True, locked=True, points=2, grade_id="empty"),
        cell("why", "Because.", "markdown", grade=True, solution=True, points=4, grade_id="why"),
    ]


def notebook(nodes: list[dict]) -> object:
    return parse(json.dumps({"cells": nodes, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode(), "lab.ipynb")


def submission(change: Callable[[list[dict]], object] = lambda nodes: None) -> object:
    nodes = copy.deepcopy(source_cells())
    nodes[2]["source"] = "def mean(v):\n    return sum(v) / len(v)"
    change(nodes)
    return notebook(nodes)


SOURCE = notebook(source_cells())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a notebook"),
        (b"[]", "no list of cells"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'{"cells": [], "nbformat": 4, "cells": []}', "the JSON key 'cells' stands twice"),
        (b'{"cells": [], "nbformat": NaN}', "NaN is not JSON"),
        (b'{"worksheets": [], "nbformat": 3}', "written in notebook format 3"),
        (b'{"cells": [], "nbformat": 5}', "format 5.None is not supported"),
        (b'{"cells": [], "nbformat": 4, "metadata": 1}', "metadata is not a JSON object"),
        (b'{"cells": [7], "nbformat": 4}', "cell 1 is not a JSON object"),
        (b'{"cells": [{"cell_type": "heading"}], "nbformat": 4}', "cell 1 has the type 'heading'"),
        (b'{"cells": [{"cell_type": "code", "source": 3}], "nbformat": 4}', "cell 1 has no text"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"cells": [], "nbformat": 4, "metadata": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}", "nested too deeply"),
        (b'{"cells": [], "nbformat": 4, "metadata": {"a": "\\ud800"}}', "half of a Unicode surrogate pair"),
        (b'{"cells": [], "nbformat": 4, "nbformat_minor": "x"}', "format 4.'x' is not supported"),
    ],
)
def test_what_is_no_notebook_is_refused_in_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(NotebookError, match="lab.ipynb: ") as refusal:
        parse(data, "lab.ipynb")
    assert words in str(refusal.value)


def test_lines_given_as_a_list_are_joined() -> None:
    node = {"cell_type": "code", "source": ["a = 1\n", "b = 2"], "outputs": []}
    assert parse(json.dumps({"cells": [node], "nbformat": 4}).encode(), "x")["cells"][0]["source"] == "a = 1\nb = 2"


def test_each_kind_of_cell_is_recognised() -> None:
    kinds = ["text", "readonly", "solution", "grade", "demo", "readonly", "grade", "manual"]
    assert [view.kind for view in cells(SOURCE)] == kinds
    assert [view.number for view in cells(SOURCE)] == list(range(1, 9))
    assert cells(notebook([cell("x", "1")]))[0].kind == "free"


@pytest.mark.parametrize("metadata", ["text", [], {"grade": True}, {"grade_id": 3, "grade": True}, {"grade_id": ""}])
def test_metadata_of_the_wrong_shape_counts_as_none(metadata: object) -> None:
    node = cell("x", "1")
    node["metadata"]["nbgrader"] = metadata
    assert cells(notebook([node]))[0].kind == "free"


def test_points_beyond_any_float_count_as_none() -> None:
    tampering = restore(submission(relabel(3, points=10**400)), SOURCE).tampering
    assert "Cell 4 (`exact`): its points were changed from 3 to nothing; the released points count." in tampering


def test_grade_cells_name_their_checks_and_points() -> None:
    assert [(grade.grade_id, grade.points, grade.check) for grade in grade_cells(SOURCE)] == [
        ("exact", 3.0, "exact"),
        ("empty", 2.0, "empty"),
    ]
    assert [(manual.grade_id, manual.points) for manual in manual_cells(SOURCE)] == [("why", 4.0)]


@pytest.mark.parametrize(
    ("source", "points", "words"),
    [
        ('check("other")', 1, 'runs check("other")'),
        ("assert True", 1, 'must end in the line check("exact")'),
        ('check("exact", 3)', 1, "must end in the line"),
        ("", 1, "must end in the line"),
        ("check(", 1, "not valid Python"),
        ('check("exact")', None, "has no points"),
        ('check("exact")', -1, "has no points"),
    ],
)
def test_a_grade_cell_that_breaks_the_rules_is_refused(source: str, points: object, words: str) -> None:
    nodes = [cell("exact", source, grade=True, locked=True, points=points, grade_id="exact")]
    with pytest.raises(NotebookError, match=r"lab\.ipynb: cell 1 \(`exact`\)") as refusal:
        grade_cells(notebook(nodes), "lab.ipynb")
    assert words in str(refusal.value)


def test_duplicate_grade_ids_are_refused() -> None:
    with pytest.raises(NotebookError, match="cells 2 and 9 have the same grade id `imports`"):
        grade_cells(notebook([*source_cells(), cell("again", "x", locked=True, grade_id="imports")]))


def test_regions_are_split_with_their_line_numbers() -> None:
    public, secret = split_regions("a\n# BEGIN SOLUTION\nb\n# END SOLUTION\nc\n### BEGIN HIDDEN TESTS\nd\n### END HIDDEN TESTS")
    assert public == [(1, "a"), (5, "c")]
    assert secret == [[(3, "b")], [(7, "d")]]


def test_an_honest_submission_runs_all_but_checks_and_demos() -> None:
    code, tampering = code_to_run(submission(), SOURCE)
    assert code == [(2, "imports", "import math"), (3, "mean", "def mean(v):\n    return sum(v) / len(v)"), (6, "helper", "N = 3")]
    assert tampering == []


def test_the_students_own_cells_run_in_their_place() -> None:
    code, tampering = code_to_run(submission(lambda nodes: nodes.insert(3, cell("mine", "M = 1"))), SOURCE)
    assert [number for number, _, _ in code] == [2, 3, 4, 7]
    assert code[2] == (4, None, "M = 1")
    assert tampering == []


def edit(place: int, **changes: object) -> Callable[[list[dict]], object]:
    return lambda nodes: nodes[place].update(changes)


def relabel(place: int, **changes: object) -> Callable[[list[dict]], object]:
    return lambda nodes: nodes[place]["metadata"]["nbgrader"].update(changes)


TAMPERING = {
    "a changed read-only cell": (edit(1, source="import evil"), "Cell 2 (`imports`) was changed; the released text was used instead."),
    "a changed check": (edit(3, source="5.0"), "Cell 4 (`exact`) was changed; the released text was used instead."),
    "raised points": (relabel(3, points=100), "Cell 4 (`exact`): its points were changed from 3 to 100; the released points count."),
    "an unlocked cell": (relabel(1, locked=False), "Cell 2 (`imports`): its nbgrader metadata was changed"),
    "code made text": (edit(2, cell_type="markdown"), "Cell 3 (`mean`) was turned into markdown; it was read as code again."),
    "a deleted check": (lambda nodes: nodes.pop(3), "The check cell `exact` was deleted; it was put back."),
    "a deleted solution": (lambda nodes: nodes.pop(2), "The solution cell `mean` was deleted."),
    "a deleted question": (lambda nodes: nodes.pop(7), "The question `why` was deleted; it counts as unanswered."),
    "a copied check": (
        lambda nodes: nodes.append(cell("copy", "evil()", grade=True, locked=True, points=3, grade_id="exact")),
        "Cell 9 repeats the grade id `exact` of cell 4; it was taken as an ordinary cell.",
    ),
    "an invented check": (
        lambda nodes: nodes.append(cell("new", "1", grade=True, locked=True, points=9, grade_id="gift")),
        "Cell 9 carries the grade id `gift`, which the released notebook doesn't have",
    ),
    "lost metadata": (lambda nodes: nodes[1]["metadata"].clear(), "Cell 2 had lost its nbgrader metadata; it was recognised as `imports`."),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_undone_and_told(name: str) -> None:
    change, sentence = TAMPERING[name]
    restored = restore(submission(change), SOURCE)
    assert any(told.startswith(sentence) for told in restored.tampering), restored.tampering
    # Whatever was done, what stands in the end has the trusted checks with the trusted points, each once.
    assert sorted(grade.points for grade in grade_cells(restored.notebook)) == [2.0, 3.0]
    code, _ = code_to_run(submission(change), SOURCE)
    assert ("imports", "import math") in [(grade_id, source) for _, grade_id, source in code]


def test_a_missing_read_only_cell_comes_back_in_its_place() -> None:
    code, tampering = code_to_run(submission(lambda nodes: nodes.pop(5)), SOURCE)
    assert [(grade_id, number) for number, grade_id, _ in code] == [("imports", 2), ("mean", 3), ("helper", 5)]
    assert tampering == ["The read-only cell `helper` was deleted; it was put back."]


def test_the_first_read_only_cell_comes_back_first() -> None:
    code, _ = code_to_run(submission(lambda nodes: nodes.pop(1)), SOURCE)
    assert code[0] == (0, "imports", "import math")


def test_an_emptied_notebook_still_has_its_checks() -> None:
    restored = restore(notebook([]), SOURCE)
    assert [grade.check for grade in grade_cells(restored.notebook)] == ["exact", "empty"]
    assert [source for _, _, source in code_to_run(notebook([]), SOURCE)[0]] == ["import math", "N = 3"]


def test_a_student_can_tag_no_cell_out_and_none_in() -> None:
    def tag(nodes: list[dict]) -> None:
        nodes[2]["metadata"]["tags"] = ["demo"]
        nodes[4]["metadata"]["tags"] = []

    code, _ = code_to_run(submission(tag), SOURCE)
    assert [grade_id for _, grade_id, _ in code] == ["imports", "mean", "helper"]


def test_a_copied_demo_cell_is_skipped_too() -> None:
    code, tampering = code_to_run(submission(lambda nodes: nodes.append(cell("copy", "plot(mean)"))), SOURCE)
    assert "plot(mean)" not in [source for _, _, source in code]
    assert tampering == []


def test_notebooks_without_cell_ids_are_recognised_by_grade_id_and_text() -> None:
    def strip(nodes: list[dict]) -> None:
        for node in nodes:
            del node["id"]

    code, tampering = code_to_run(submission(strip), SOURCE)
    assert [grade_id for _, grade_id, _ in code] == ["imports", "mean", "helper"]
    assert tampering == []


def test_hidden_tests_in_the_source_are_no_tampering_of_the_submission() -> None:
    nodes = source_cells()
    nodes[3]["source"] = '### BEGIN HIDDEN TESTS\nx = 1\n### END HIDDEN TESTS\ncheck("exact")'
    assert restore(submission(), notebook(nodes)).tampering == []


def test_sentences_are_capped() -> None:
    many = [cell(f"c{number}", "1", locked=True, grade_id=f"unknown{number}") for number in range(200)]
    tampering = restore(notebook([*source_cells(), *many]), SOURCE).tampering
    assert len(tampering) == 51
    assert tampering[-1] == "There are 150 more changes like these."


def test_restore_leaves_the_submission_as_it_was() -> None:
    handed_in = submission(edit(1, source="import evil"))
    before = copy.deepcopy(handed_in)
    restore(handed_in, SOURCE)
    assert handed_in == before
