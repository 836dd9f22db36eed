"""`perf_budgets/<lab>.yml`: what is refused and with which sentence, and the form that students get."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graders.budgets import INDICATIVE, Budget, LabBudgets, Receipt, WorkerLimits, load_budgets, public_yaml
from graders.report import Tier
from graders.yaml_file import ConfigError, FieldError

REPOSITORY = Path(__file__).resolve().parent.parent

GOOD = """\
lab: toy_search
reference: reference.simd
forbidden: [faiss]
limits: {memory_mb: 1024, seconds: 100}
budgets:
  dot_speedup:
    kind: speedup
    against: baseline
    workload: 16 fresh queries on a 4096×384 float32 matrix
    tiers:
      - {credit: 1.0, limit: 4.0}
      - {credit: 0.5, limit: 2.0}
    receipt:
      machine: 2 cores, Python 3.11
      date: 2026-11-21
      command: make calibrate
      measured: {solution: 9.3, slow_fault: 1.0}
  topk_time:
    kind: slowdown
    against: reference
    reference_over_baseline: 12
    workload: 8 queries
    alpha: 1e-4
    tiers:
      - {credit: 1.0, limit: 1.5}
      - {credit: 0.5, limit: 3}
    receipt:
      machine: 2 cores
      date: 2026-11-21
      command: make calibrate
      measured: {solution: 1.2}
  recall:
    kind: recall_at_k
    k: 10
    tiers: [{credit: 1, limit: 0}]
    receipt: {machine: any, date: 2026-11-21, command: make calibrate, measured: {solution: -0.01}}
"""


def write(folder: Path, text: str, lab: str = "toy_search") -> Path:
    path = folder / "perf_budgets" / f"{lab}.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def sentence(folder: Path, text: str, lab: str = "toy_search") -> str:
    path = write(folder, text, lab)
    with pytest.raises(ConfigError) as caught:
        load_budgets(path)
    return str(caught.value).replace(f"{path}", f"{lab}.yml")


def test_budgets_are_read(tmp_path: Path) -> None:
    budgets = load_budgets(write(tmp_path, GOOD))
    assert (budgets.lab, budgets.reference, budgets.forbidden) == ("toy_search", "reference.simd", ["faiss"])
    assert budgets.limits == WorkerLimits(memory_mb=1024, seconds=100)
    speedup, slowdown, recall = budgets.budgets.values()
    assert speedup.tiers == [Tier(credit=1.0, limit=4.0), Tier(credit=0.5, limit=2.0)]
    assert speedup.receipt.date == dt.date(2026, 11, 21)
    assert (speedup.alpha, speedup.beta, speedup.max_pairs, speedup.seconds) == (0.001, 0.01, 200, 60)
    assert (slowdown.alpha, slowdown.reference_over_baseline, recall.k) == (1e-4, 12, 10)


def test_a_lab_without_limits_gets_the_usual_ones(tmp_path: Path) -> None:
    budgets = load_budgets(write(tmp_path, "lab: toy_search\n"))
    assert (budgets.limits.memory_mb, budgets.limits.seconds, budgets.budgets, budgets.reference) == (2048, 240, {}, None)


def test_the_example_of_the_authors_guide_is_valid(tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs" / "authoring.md").read_text()
    example = guide.split("### Budgets")[1].split("```yaml\n")[1].split("```")[0]
    assert list(load_budgets(write(tmp_path, example, "c4_09_simd_search")).budgets) == ["dot_batch_speedup"]


TIERS = "- {credit: 1.0, limit: 4.0}\n      - {credit: 0.5, limit: 2.0}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            TIERS,
            "- {credit: 0.5, limit: 2.0}\n      - {credit: 1.0, limit: 4.0}",
            "toy_search.yml:12: budgets.dot_speedup.tiers[1].credit must be below 0.5, the credit before it: tiers stand best first.",
        ),
        (
            TIERS,
            "- {credit: 1.0, limit: 2.0}\n      - {credit: 0.5, limit: 4.0}",
            "toy_search.yml:12: budgets.dot_speedup.tiers[1].limit must be below 2, the limit before it: less credit asks for less speed-up.",
        ),
        (
            "limit: 3}",
            "limit: 1.2}",
            "toy_search.yml:26: budgets.topk_time.tiers[1].limit must be above 1.5, the limit before it: less credit allows a higher slowdown.",
        ),
        (
            "credit: 0.5, limit: 2.0",
            "credit: 0, limit: 2.0",
            "toy_search.yml:12: budgets.dot_speedup.tiers[1].credit must be > 0 and at most 1, but it is 0.",
        ),
        ("limit: 1.5", "limit: 0", "toy_search.yml:25: budgets.topk_time.tiers[0].limit must be a finite number > 0, but it is 0."),
        ("limit: 0}", "limit: -1}", "toy_search.yml:35: budgets.recall.tiers[0].limit must be a finite number >= 0, but it is -1."),
        (
            "{credit: 1.0, limit: 1.5}",
            "{credit: 1.0, limt: 1.5}",
            'toy_search.yml:25: budgets.topk_time.tiers[0].limt is not a known field. Did you mean "limit"? Allowed here: credit, limit.',
        ),
        (
            "    receipt:\n      machine: 2 cores\n      date: 2026-11-21\n      command: make calibrate\n      measured: {solution: 1.2}\n",
            "",
            (
                "toy_search.yml:18: budgets.topk_time.receipt is missing "
                "(the machine, date and command behind the numbers, and what was measured)."
            ),
        ),
        (
            "measured: {solution: 1.2}",
            "measured: {solution: fast}",
            'toy_search.yml:31: budgets.topk_time.receipt.measured.solution must be a number, but it is text "fast".',
        ),
        (
            "measured: {solution: 1.2}",
            "measured: {}",
            "toy_search.yml:31: budgets.topk_time.receipt.measured must be a mapping of length >= 1, but it is a mapping.",
        ),
        (
            "solution: 1.2",
            "solution: 0",
            "toy_search.yml:31: budgets.topk_time.receipt.measured.solution must be > 0, as every slowdown is, but it is 0.",
        ),
        (
            "kind: slowdown",
            "kind: slodown",
            'toy_search.yml:19: budgets.topk_time.kind must be one of count, latency_p99, recall_at_k, slowdown, speedup, but it is text "slodown". Did you mean "slowdown"?',
        ),
        (
            "    against: baseline\n",
            "",
            "toy_search.yml:6: budgets.dot_speedup.against is missing: a speedup is measured against the baseline or the reference.",
        ),
        (
            "    k: 10",
            "    k: 10\n    against: baseline",
            "toy_search.yml:35: budgets.recall.against must go: a recall_at_k is measured against no other implementation.",
        ),
        ("    k: 10", "    k: -10", "toy_search.yml:34: budgets.recall.k must be a finite number > 0, but it is -10."),
        (
            "    reference_over_baseline: 12\n",
            "",
            (
                "toy_search.yml:18: budgets.topk_time.reference_over_baseline is missing: "
                "on a student's machine there is no reference, and the limits are scaled to the baseline by it."
            ),
        ),
        (
            "reference: reference.simd\n",
            "",
            "toy_search.yml:19: budgets.topk_time.against can't be reference: the file names no `reference:` module.",
        ),
        (
            "reference: reference.simd",
            "reference: reference/simd.py",
            'toy_search.yml:2: reference must be a module such as reference.simd, but it is "reference/simd.py".',
        ),
        (
            "[faiss]",
            "[faiss, sklearn.neighbors]",
            'toy_search.yml:3: forbidden[1] must be a top-level package such as faiss, but it is "sklearn.neighbors".',
        ),
        (
            "  dot_speedup:",
            "  dot-speedup:",
            "toy_search.yml:6: budgets.dot-speedup must be a name of letters, digits and _, as in `@check(budget=...)`.",
        ),
        ("  dot_speedup:", "  12:", "toy_search.yml:5: budgets has a key that is not text: put it in quotes."),
        ("  topk_time:", "  dot_speedup:", "toy_search.yml:18: budgets.dot_speedup stands twice, first on line 6. Keep one."),
        ("memory_mb: 1024", "memory_mb: 1GB", 'toy_search.yml:4: limits.memory_mb must be a whole number, but it is text "1GB".'),
        ("lab: toy_search", "lab: toy_serach", 'toy_search.yml:1: lab must be "toy_search" as the file is named, but it is "toy_serach".'),
    ],
)
def test_a_mistake_is_named_by_line_and_field(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1
    assert sentence(tmp_path, GOOD.replace(old, new)) == expected


def test_a_struct_made_in_code_is_checked_alike() -> None:
    receipt = Receipt(machine="any", date=dt.date(2026, 11, 21), command="make calibrate", measured={"solution": 5.0})
    with pytest.raises(FieldError, match="against is missing: a speedup is measured"):
        Budget(kind="speedup", tiers=[Tier(credit=1.0, limit=4.0)], receipt=receipt)


def test_on_push_a_slowdown_becomes_a_speedup_over_the_baseline(tmp_path: Path) -> None:
    official = load_budgets(write(tmp_path, GOOD)).budgets["topk_time"]
    pushed = official.on_push()
    assert (pushed.kind, pushed.against, pushed.reference_over_baseline) == ("speedup", "baseline", None)
    assert pushed.tiers == [Tier(credit=1.0, limit=8.0), Tier(credit=0.5, limit=4.0)]
    assert pushed.receipt.measured == {"solution": 10.0}
    assert pushed.workload == f"8 queries ({INDICATIVE})"
    assert pushed.alpha == official.alpha
    assert official.kind == "slowdown"
    assert pushed.on_push() == pushed


def ratio(kind: str, *limits: float) -> Budget:
    """A budget of `kind` against a reference that is five times as fast as the baseline."""
    return Budget(
        kind=kind,
        against="reference",
        reference_over_baseline=5.0,
        tiers=[Tier(credit=1 / position, limit=limit) for position, limit in enumerate(limits, start=1)],
        receipt=Receipt(machine="any", date=dt.date(2026, 11, 21), command="make calibrate", measured={"solution": 1.0}),
    )


def test_on_push_the_other_ratios_keep_their_kind() -> None:
    speedup, p99 = ratio("speedup", 0.8, 0.4).on_push(), ratio("latency_p99", 2.0, 4.0).on_push()
    assert (speedup.kind, [tier.limit for tier in speedup.tiers]) == ("speedup", [4.0, 2.0])
    assert (p99.kind, p99.against, [tier.limit for tier in p99.tiers]) == ("latency_p99", "baseline", [0.4, 0.8])


@given(gain=st.floats(0.5, 500), limit=st.floats(1.0, 10), time=st.floats(0.1, 100))
def test_on_push_asks_for_what_the_official_budget_asks(gain: float, limit: float, time: float) -> None:
    """With the reference's time as unit, the baseline takes `gain`: both forms accept a submission that takes `time`, or neither."""
    budget = msgspec.structs.replace(ratio("slowdown", limit), reference_over_baseline=gain)
    pushed = budget.on_push().tiers[0].limit
    if abs(time / limit - 1) > 1e-3:
        assert (gain / time >= pushed) == (time <= limit)


def test_a_budget_without_the_reference_is_the_same_on_push(tmp_path: Path) -> None:
    budgets = load_budgets(write(tmp_path, GOOD)).budgets
    assert budgets["dot_speedup"].on_push() is budgets["dot_speedup"]
    assert budgets["recall"].on_push() is budgets["recall"]


def test_students_get_the_budgets_without_the_reference(tmp_path: Path) -> None:
    budgets = load_budgets(write(tmp_path, GOOD))
    shipped = public_yaml(budgets)
    assert b"reference.simd" not in shipped
    assert b"reference_over_baseline" not in shipped
    path = tmp_path / "budgets.yml"
    path.write_bytes(shipped)
    public = load_budgets(path)
    assert public.reference is None
    assert public.budgets == {name: budget.on_push() for name, budget in budgets.budgets.items()}
    assert (public.lab, public.forbidden, public.limits) == (budgets.lab, budgets.forbidden, budgets.limits)
    assert public_yaml(public) == shipped == public_yaml(load_budgets(write(tmp_path, GOOD)))


def test_the_schema_accepts_what_the_code_accepts() -> None:
    schema = json.loads((REPOSITORY / "docs" / "schemas" / "perf_budget.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = yaml.safe_load(GOOD.replace("2026-11-21", "'2026-11-21'").replace("1e-4", "0.0001"))
    assert list(validator.iter_errors(document)) == []
    document["budgets"]["recall"]["tiers"][0]["limt"] = 1
    del document["budgets"]["dot_speedup"]["receipt"]
    assert len(list(validator.iter_errors(document))) == 2


def test_every_committed_budget_file_is_valid() -> None:
    for path in sorted((REPOSITORY / "perf_budgets").glob("*.yml")):
        budgets = load_budgets(path)
        assert isinstance(budgets, LabBudgets)
        assert public_yaml(budgets)
