"""The feedback pages: complete, well formed, inert whatever a student wrote, small, and the same bytes for the same report."""

from __future__ import annotations

import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders import feedback, plots
from graders.report import CellError, CheckResult, Counterexample, Evidence, Machine, ManualAnswer, Report, ReportError, Tier

VOID = {"meta", "link", "br", "hr", "img", "input"}
XSS = """</pre><script>alert(1)</script><img src=x onerror="alert(2)">' onmouseover='x' {{ 7*7 }} &amp; """
XSS += "\x1b[31mred\x1b[0m \x00 \u202egnp.exe"


class Page(HTMLParser):
    """Checks nesting while it reads, and keeps what the tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.attributes += [(name, value or "") for name, value in attrs]
        if "svg" not in self.stack:
            self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


SIGNATURE = "(Array(float32, 1, 'C', False, aligned=True), Array(float32, 2, 'C', False, aligned=True))"
MACHINE = Machine(cpu="Intel Xeon, AVX-512", cores=2, python="3.11.7", platform="Linux x86_64", load=0.4)


def make_report(**changes: object) -> Report:
    fields = {
        "course": "C4 · GenAI systems",
        "lab": "c4_09_simd_search",
        "student": "ada",
        "submission": "blake3:6f0d3b52a1c94e1f",
        "graded_at": "2026-11-21T14:03:00+00:00",
        "submitted_at": "2026-11-21T13:58:12+00:00",
        "isolation": "full",
        "checks": [],
        "points": 0.0,
        "max_points": 0.0,
        "machine": MACHINE,
        "grader": "classroom 0.1.0",
        "seed_commitment": "blake3:91c2b7e0",
        "seconds": 41.2,
    }
    report = Report(**(fields | changes))  # type: ignore[arg-type]
    if "points" not in changes:
        report.points = sum(check.points for check in report.checks)
        report.max_points = sum(check.max_points for check in report.checks)
    return report


def make_check(
    name: str, sentence: str, outcome: str, points: float, fraction: float, kind: str = "property", **more: object
) -> CheckResult:
    return CheckResult(
        name=name, sentence=sentence, outcome=outcome, kind=kind, max_points=points, fraction=fraction, points=points * fraction, **more
    )  # type: ignore[arg-type]


def speedup_evidence(median: float, limit: float, **more: object) -> Evidence:
    """Forty pairs of a speedup budget, from a seeded lognormal."""
    ratios = np.exp(np.random.default_rng(7).normal(-math.log(median), 0.12, 62))
    low, high = sorted(1 / np.quantile(ratios, [0.4, 0.6]))
    return Evidence(
        kind="speedup",
        against="baseline",
        workload="16 fresh queries on a 4096×384 float32 matrix",
        tiers=[Tier(credit=1.0, limit=limit), Tier(credit=0.5, limit=limit / 2)],
        measured=float(1 / np.median(ratios)),
        interval=(float(low), float(high)),
        unit="×",
        pairs=len(ratios),
        ratios=ratios.tolist(),
        e_value_fail=1412.0,
        e_value_pass=0.02,
        wall_ratio=float(np.median(ratios)) * 1.04,
        load=2.3,
        seconds=9.4,
        **more,  # type: ignore[arg-type]
    )


def good_report() -> Report:
    checks = [
        make_check(
            "dot_batch_agrees_with_float64",
            "`dot_batch(q, X)` equals float64 NumPy to 1e-5 for every length, also 0, 1 and odd ones.",
            "pass",
            4,
            1,
        ),
        make_check("top_k_is_exact", "`top_k(scores, k)` returns the k largest, best first; ties go to the lower index.", "pass", 3, 1),
        make_check(
            "dot_batch_is_vectorised",
            "`dot_batch` is at least 4 times as fast as the scalar loop.",
            "pass",
            5,
            1,
            kind="budget",
            evidence=speedup_evidence(
                9.1,
                4.0,
                verdict="Within budget: in 62 of 62 pairs it kept 4×.",
                kernels=[{"name": "dot_batch", "signature": SIGNATURE, "packed": 96, "scalar": 4, "register_bits": 512}],
            ),
        ),
        make_check("search_streams", "`search` holds no more than one block of the matrix in memory at a time.", "pass", 3, 1, kind="test"),
    ]
    return make_report(checks=checks)


def mixed_report() -> Report:
    rng = np.random.default_rng(11)
    slowdown = np.exp(rng.normal(math.log(2.1), 0.25, 120))
    latencies = {"yours": rng.lognormal(2.3, 0.45, 2000).tolist(), "the reference's": rng.lognormal(1.9, 0.3, 2000).tolist()}
    late = np.mean(np.array(latencies["yours"]) > 1.5 * np.quantile(latencies["the reference's"], 0.99))
    efforts = [10, 20, 40, 80, 160, 320]
    checks = [
        make_check("layers_are_connected", "Every node of every layer is reached from the entry point.", "pass", 3, 1),
        make_check(
            "search_is_exact_when_ef_is_n",
            "`index.search(q, k, ef)` is exact as soon as `ef` is at least the number of vectors.\n\n"
            "Hint: look at what the candidate heap keeps when two distances are equal.",
            "fail",
            4,
            0,
            message="With 3 vectors and `ef=3` the nearest one is missing from the answer.",
            counterexample=Counterexample(
                call="index = HNSW(2, M=2, seed=0)\nfor x in np.array([[0, 0], [0, 1], [1, 0]], dtype=np.float32):\n    index.add(x)\n"
                "index.search(np.zeros(2, dtype=np.float32), k=2, ef=3)",
                expected="ids = [0, 1]\ndistances = [0.0, 1.0]",
                actual="ids = [2, 1]\ndistances = [1.0, 1.0]",
                traceback='File "c4_10_hnsw.ipynb", cell 6, in search\nAssertionError: ids differ at position 0',
            ),
        ),
        make_check(
            "remove_forgets",
            "A removed vector never appears in a result again.",
            "fail",
            2,
            0,
            message="`remove` raised.",
            counterexample=Counterexample(
                call="index.remove(0)", traceback="Traceback (most recent call last):\n  cell 7, line 12, in remove\nKeyError: 0"
            ),
        ),
        make_check(
            "recall_like_hnswlib",
            "recall@10 is at most 0.03 below hnswlib at the same `M` and `ef`.",
            "partial",
            4,
            0.5,
            kind="budget",
            message="Your recall@10 is 0.927; the oracle reaches 0.978; the budget is at most 0.03 below it.",
            evidence=Evidence(
                kind="recall_at_k",
                workload="20,000 clustered vectors of 64 dimensions, 200 queries",
                tiers=[Tier(credit=1.0, limit=0.03), Tier(credit=0.5, limit=0.08)],
                measured=0.051,
                curve={
                    "yours": [(ef, 1 - 0.62 / (1 + ef / 14)) for ef in efforts],
                    "hnswlib": [(ef, 1 - 0.42 / (1 + ef / 9)) for ef in efforts],
                },
                curve_labels=("ef", "recall@10"),
                verdict="recall@10 is 0.927; the oracle reaches 0.978; the budget is at most 0.03 below it",
                seconds=6.1,
            ),
        ),
        make_check(
            "search_time",
            "`search` takes at most 1.5 times as long as the reference.",
            "partial",
            4,
            0.5,
            kind="budget",
            evidence=Evidence(
                kind="slowdown",
                against="reference",
                workload="64 queries on an index of 20,000 vectors",
                tiers=[Tier(credit=1.0, limit=1.5), Tier(credit=0.5, limit=3.0)],
                measured=float(np.median(slowdown)),
                interval=(2.02, 2.19),
                pairs=120,
                ratios=slowdown.tolist(),
                e_value_fail=2.1e7,
                e_value_pass=310.0,
                wall_ratio=2.3,
                load=1.1,
                seconds=18.0,
                verdict="50% of the points: 2.1× the time of the reference; the budget is 3×; 120 paired runs",
            ),
        ),
        make_check(
            "serve_p99",
            "The service answers 99 % of the requests within 1.5 times the reference’s p99.",
            "fail",
            3,
            0,
            kind="budget",
            evidence=Evidence(
                kind="latency_p99",
                against="reference",
                workload="200 requests a second for 10 s, open loop",
                tiers=[Tier(credit=1.0, limit=1.5)],
                measured=float(np.quantile(latencies["yours"], 0.99) / np.quantile(latencies["the reference's"], 0.99)),
                unit="×",
                latencies_ms=latencies,
                verdict=f"{late:.1%} of the requests were slower than 1.5 times the reference’s p99; 1 % may be.",
                seconds=24.0,
            ),
        ),
        make_check(
            "distance_evaluations",
            "One query costs at most 900 distance evaluations.",
            "fail",
            2,
            0,
            kind="budget",
            evidence=Evidence(kind="count", tiers=[Tier(credit=1.0, limit=900)], measured=1340.0, unit="distance evaluations"),
            hidden=True,
        ),
        make_check(
            "saved_index_is_equal",
            "A saved and loaded index gives the same answers.",
            "error",
            1,
            1,
            message="The oracle ran out of memory.",
        ),
        make_check(
            "save_is_atomic",
            "A crash while saving leaves the old file whole.",
            "not_run",
            1,
            0,
            message="Runs once `remove_forgets` passes.",
        ),
    ]
    return make_report(
        lab="c4_10_hnsw",
        student="grace",
        checks=checks,
        late_seconds=7800.0,
        late_penalty=0.1,
        isolation="partial (no memory cgroup on this host)",
        tampering=["Cell `imports` was changed; the original was restored.", "Grade cell `search_time` was deleted; it was put back."],
        cell_errors=[
            CellError(cell=9, grade_id="demo_plot", message="NameError: name 'plt' is not defined", traceback="line 3, in <module>")
        ],
        manual=[
            ManualAnswer(
                grade_id="why_layers", max_points=3, answered=True, text="Because greedy search on one layer\nneeds O(n^(1/d)) hops…"
            ),
            ManualAnswer(grade_id="when_not_hnsw", max_points=2, answered=False),
        ],
    )


def broken_report() -> Report:
    return make_report(
        student="linus", points=0.0, max_points=15.0, problem="`c4_09_simd_search.ipynb` is not valid JSON: line 214 ends inside a string."
    )


def hostile_report() -> Report:
    long = XSS + "<b>" * 20_000
    evidence = Evidence(
        kind="slowdown",
        against=XSS,
        workload=long,
        tiers=[Tier(credit=1, limit=1.5), Tier(credit=0.5, limit=math.inf)],
        measured=math.nan,
        ratios=[math.inf, math.nan, -1.0, 0.0, 1e-300, 1e300, 2.0],
        verdict=long,
        curve={XSS + "$x$": [(0.0, math.nan), (1.0, 0.5), (1.0, 0.5)]},
        curve_labels=(XSS, "$\\frac{"),
        kernels=[{XSS: long, "packed": 1}] * 500,
    )
    example = Counterexample(call=long, expected=long, actual=long + "x", traceback="\ud800" + "`" * 50_000)
    checks = [
        make_check(f"check_{i}", XSS, "fail", 1, 0, message="`a" * 9000 + long, counterexample=example, evidence=evidence)
        for i in range(25)
    ]
    return make_report(
        student=XSS,
        course=XSS,
        checks=checks,
        problem=long,
        tampering=[long] * 900,
        cell_errors=[CellError(cell=1, grade_id=XSS, message=long, traceback=long)] * 900,
        manual=[ManualAnswer(grade_id=XSS, max_points=1, answered=True, text=long)] * 900,
        isolation=XSS,
        graded_at=XSS,
    )


REPORTS = {"good": good_report, "mixed": mixed_report, "broken": broken_report, "hostile": hostile_report}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: feedback.render_report(make()) for name, make in REPORTS.items()}


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_well_formed_small_and_alone(pages: dict[str, str], name: str) -> None:
    html = pages[name]
    page = Page(html)
    assert len(html.encode()) < 300_000
    assert not {"script", "link", "iframe", "object", "img", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "xlink:href", "src"))
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(page.ids) == len(set(page.ids))


def test_the_same_report_gives_the_same_bytes(pages: dict[str, str]) -> None:
    for name, make in REPORTS.items():
        assert feedback.render_report(make()) == pages[name]


def test_a_page_tells_the_score_and_what_would_raise_it(pages: dict[str, str]) -> None:
    words = Page(pages["mixed"]).words
    assert "8 of 29 points" in words and "of which 5 for the TA to grade" in words
    assert "10 % off for coming late: 7.2 count" in words and "(2 h 10 min late)" in words
    gains = words[words.index("What would raise your score most") : words.index("The checks")]
    assert re.findall(r"\+[\d.]+", gains) == ["+4", "+3", "+2", "+2", "+2"]
    assert "isolation: partial (no memory cgroup on this host)" in words
    assert "21 November 2026, 14:03 UTC" in words


def test_a_failed_property_shows_its_counterexample_with_the_difference_marked(pages: dict[str, str]) -> None:
    html = pages["mixed"]
    assert "index = HNSW(2, M=2, seed=0)\nfor x in" in html
    assert "<mark>0</mark>" in html and "<mark>2</mark>" in html
    assert "ids differ at position 0" in html


def test_the_kernels_are_listed_with_short_signatures(pages: dict[str, str]) -> None:
    assert "kernel packed scalar register bits dot_batch (float32[:], float32[:,:]) 96 4 512" in Page(pages["good"]).words


def test_a_verdict_that_the_message_repeats_is_shown_once(pages: dict[str, str]) -> None:
    words = Page(pages["mixed"]).words
    assert words.count("the oracle reaches 0.978") == 1
    assert words.count("2.1× the time of the reference") == 1


def test_a_grader_error_is_named_as_such_and_asks_nothing_of_the_student(pages: dict[str, str]) -> None:
    words = Page(pages["mixed"]).words
    assert "Here the grader broke, not your code. It costs you no points" in words
    assert "A saved and loaded index" not in words[words.index("What would raise") : words.index("The checks")]


def test_every_kind_of_evidence_has_a_plot_in_the_colours_of_the_page(pages: dict[str, str]) -> None:
    drawings = re.findall(r'<svg class="plot".*?</svg>', pages["mixed"], re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        assert "var(--accent)" in drawing and "full credit" in drawing
        assert not re.search(r"#0[1-7]0[1-7]0[1-7]", drawing)
    assert "your time ÷ the reference’s time" in "".join(drawings)


def test_an_unreadable_submission_says_why(pages: dict[str, str]) -> None:
    words = Page(pages["broken"]).words
    assert "This submission could not be graded" in words and "line 214 ends inside a string" in words
    assert "0 of 15 points" in words


def test_what_a_student_wrote_is_shown_and_never_obeyed(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert "<script>alert(1)</script>" in page.words, "shown as text"
    assert "{{ 7*7 }}" in page.words
    assert "⟨U+202E⟩" in page.words and "␀" in page.words and "⟨U+D800⟩" in page.words
    assert "characters left out" in page.words
    assert not re.search("[\x00\x1b\u202a-\u202e\u2066-\u2069]", pages["hostile"])


@given(st.text())
def test_visible_text_can_be_encoded_and_hides_nothing(text: str) -> None:
    shown = feedback.visible(text)
    shown.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]", shown)


@given(st.text(alphabet="ab<&\"'1. \n"), st.text(alphabet="ab<&\"'1. \n"))
def test_marking_a_difference_only_adds_marks(expected: str, actual: str) -> None:
    for before, after in zip((expected, actual), feedback.mark_difference(expected, actual), strict=True):
        assert after.replace("<mark>", "").replace("</mark>", "") == str(feedback.escape(before))


@given(st.text(alphabet="`<a&", max_size=40))
def test_prose_makes_no_tags_but_code(text: str) -> None:
    Page(str(feedback.prose(text)))
    assert set(Page(str(feedback.prose(text))).tags) <= {"code"}


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["speedup", "slowdown", "latency_p99", "recall_at_k", "count"]),
    ratios=st.lists(st.floats(min_value=0), max_size=5),
    limits=st.lists(st.floats(min_value=0), max_size=4),
    measured=st.none() | st.floats(),
    latencies=st.dictionaries(st.sampled_from(["student", "reference"]), st.lists(st.floats(), max_size=4)),
    curve=st.dictionaries(st.sampled_from(["student", "hnswlib"]), st.lists(st.tuples(st.floats(), st.floats()), max_size=4)),
)
def test_no_evidence_breaks_a_plot(
    kind: str,
    ratios: list[float],
    limits: list[float],
    measured: float | None,
    latencies: dict[str, list[float]],
    curve: dict[str, list[tuple[float, float]]],
) -> None:
    evidence = Evidence(
        kind=kind,
        ratios=ratios,
        tiers=[Tier(credit=1, limit=limit) for limit in limits],
        measured=measured,
        latencies_ms=latencies,
        curve=curve,
    )
    for draw in (plots.ratio_svg, plots.latency_svg, plots.curve_svg, plots.measure_svg):
        drawing = draw(evidence)
        if drawing:
            Page(drawing)


LABS = ["01_model_client", "02_gguf", "03_bpe", "04_chat_templates", "05_structured_output", "06_prompt_templates", "07_gateway"]
LABS += ["08_embeddings", "09_simd_search", "10_hnsw"]
PROMISES = [
    "`encode` and `decode` are inverse for every string.",
    "The result does not depend on the order of the inputs.",
    "An empty input gives an empty result.",
    "A malformed input raises `ValueError` and names the field.",
    "Results agree with the oracle to 1e-5.",
    "At least 4 times as fast as the baseline.",
    "At most 1.5 times the reference’s time.",
    "99 % of the requests stay within the budget.",
]


def class_reports(labs: int, students: int) -> list[Report]:
    """A made-up class: each student has a strength, each check and each lab a difficulty."""
    rng = np.random.default_rng(3)
    strengths = rng.normal(1.1, 0.55, students)
    reports = []
    for lab in range(labs):
        for student in range(students):
            checks = []
            for i, promise in enumerate(PROMISES):
                fraction = float(np.clip(np.floor(2 * (strengths[student] + rng.normal(0.75, 0.4) - i / 7 - lab / 14)) / 2, 0, 1))
                outcome = "pass" if fraction == 1 else "partial" if fraction else "fail"
                checks.append(make_check(f"promise_{i + 1}", promise, outcome, 2, fraction))
            tampering = ["Cell `imports` was changed."] if rng.random() < 0.01 else []
            reports.append(make_report(lab=f"c4_{LABS[lab]}", student=f"student{student + 1:02}", checks=checks, tampering=tampering))
    return reports


def test_the_index_of_500_reports_is_quick_and_links_to_every_page() -> None:
    reports = class_reports(10, 50)
    start = time.process_time()
    html = feedback.render_index(reports, "C4 · GenAI systems")
    assert time.process_time() - start < 10
    page = Page(html)
    assert "50 students, 10 labs, 500 graded submissions" in page.words
    hrefs = {value.partition("#")[0] for name, value in page.attributes if name == "href"}
    assert hrefs >= {f"{report.student}/{report.lab}/{report.lab}.html" for report in reports}


def test_the_index_survives_hostile_reports_and_none_at_all() -> None:
    page = Page(feedback.render_index([hostile_report(), good_report(), broken_report()], XSS))
    assert "script" not in page.tags and "img" not in page.tags
    assert "Nothing has been graded yet" in Page(feedback.render_index([], "C3")).words


def test_write_feedback_puts_each_page_where_the_index_links_to(tmp_path: Path) -> None:
    reports = [good_report(), mixed_report(), make_report(student="élise d'Arc 100%", problem="No notebook.")]
    seen: list[Path] = []
    paths = feedback.write_feedback(iter(reports), tmp_path, progress=seen.append)
    assert seen == [tmp_path / r.student / r.lab / f"{r.lab}.html" for r in reports]
    assert paths == [*seen, tmp_path / "index.html"]
    index = Page((tmp_path / "index.html").read_text())
    for href in {value.partition("#")[0] for name, value in index.attributes if name == "href"} - {""}:
        assert (tmp_path / unquote(href)).is_file(), href
    assert sorted(tmp_path.rglob(".*")) == [], "no temporary file stays"
    first = {path: path.read_bytes() for path in paths}
    feedback.write_feedback(reports, tmp_path)
    assert {path: path.read_bytes() for path in paths} == first


@pytest.mark.parametrize("student", ["", "..", "a/b", "a\\b", ".hidden", "a\x00b", "x" * 300, "\ud800"])
def test_a_name_that_is_no_folder_is_refused_before_anything_is_written(tmp_path: Path, student: str) -> None:
    with pytest.raises(ReportError, match="can't be a folder"):
        feedback.write_feedback([good_report(), make_report(student=student)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links_to_the_index_only_where_asked(pages: dict[str, str]) -> None:
    assert "All submissions" not in pages["good"]
    assert '<a href="../../index.html">All submissions</a>' in feedback.render_report(good_report(), href_index="../../index.html")
