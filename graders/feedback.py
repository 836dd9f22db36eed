"""The feedback pages: one self-contained HTML page for each report, and one page for the class.

A page needs no other file and no script, follows the reader's light or dark theme, and prints. What a student wrote is hostile:
every string is escaped by Jinja2, invisible characters are shown as marks, long text is cut with a note, and the page's
Content-Security-Policy forbids scripts even if an escape were missed. The same report gives the same bytes.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup, escape

from graders import plots
from graders.report import CheckResult, Counterexample, Evidence, Report, ReportError, write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

TEXT_LIMIT = 4000
NAME_LIMIT = 120
PAGE_LIMIT = 300_000
OUTCOMES = {"pass": "passed", "partial": "partial", "fail": "failed", "error": "grader’s error", "not_run": "not run"}
# As in nbgrader, a lab's slug is its only name; these parts of it are not words.
_ACRONYMS = {"automl", "bpe", "gguf", "hnsw", "lora", "rag", "simd"}
_ANSI = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_CODE = re.compile(r"(`{1,2})(?=[^`])(.+?)(?<!`)\1(?!`)", re.DOTALL)
# Numba's long name of an array type; one digit, because the number of dimensions is repeated as colons.
_NUMBA_ARRAY = re.compile(r"Array\((\w+), (\d), '\w', \w+(?:, aligned=\w+)?\)")
_UNSAFE_SEGMENT = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# ---- Text that somebody else wrote ----


def visible(text: str) -> str:
    """Return `text` without terminal colours and with every invisible or unencodable character shown as a mark, e.g. ␀ or ⟨U+202E⟩.

    Newlines and tabs stay. Bidirectional controls, zero-width characters and lone surrogates are marked, so that nothing on a page
    can be reordered or hidden; a joiner inside an emoji or a script that needs it is marked too, which is the lesser harm.
    """
    return "".join(map(_mark, _ANSI.sub("", text).replace("\r\n", "\n")))


@cache
def _mark(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    # Spaces of another width and unassigned letters are harmless; the categories below change what is around them or can't be encoded.
    return f"⟨U+{code:04X}⟩" if unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") else character


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return at most about `limit` characters of `text`: its beginning and its end, with a note of how many were left out between."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 4, limit // 4
    return f"{text[:head]}\n… {len(text) - limit:,} characters left out …\n{text[-tail:]}"


def shown(text: str, limit: int = TEXT_LIMIT) -> str:
    """`text` cut to `limit` characters and made visible; its length costs no time beyond the cut."""
    return visible(cut(_ANSI.sub("", text), limit))


def prose(text: str) -> Markup:
    """Escape `text` and set what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\2</code>", str(escape(text))))


def mark_difference(expected: str, actual: str) -> tuple[Markup, Markup]:
    """Escape both texts and mark the tokens in which they differ; texts that are long or have little in common stay unmarked."""
    tokens = [re.findall(r"[\w.+-]+|\s+|.", text) for text in (expected, actual)]
    if max(map(len, tokens)) > 400:  # matching is quadratic
        return escape(expected), escape(actual)
    matcher = difflib.SequenceMatcher(None, tokens[0], tokens[1], autojunk=False)
    if matcher.ratio() < 0.4:
        return escape(expected), escape(actual)
    sides: list[list[Markup]] = [[], []]
    for operation, *spans in matcher.get_opcodes():
        for side, (start, end) in enumerate((spans[:2], spans[2:])):
            piece = escape("".join(tokens[side][start:end]))
            sides[side].append(piece if operation == "equal" or not piece else Markup("<mark>{}</mark>").format(piece))
    return Markup().join(sides[0]), Markup().join(sides[1])


# ---- Words for numbers ----


def points(value: float) -> str:
    """Points without needless decimals: 3, 2.5, 0.33."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "?"


class LabTitle(NamedTuple):
    """A lab's slug in words: `c4_09_simd_search` is course "C4", place "lab 9", name "SIMD search"."""

    course: str
    place: str
    name: str

    @property
    def short(self) -> str:
        return f"{self.course} {self.place}".strip() or self.name


def lab_title(lab: str) -> LabTitle:
    """Read a lab's slug; one of another form is its own name."""
    course, _, rest = shown(lab, NAME_LIMIT).partition("_")
    number, _, slug = rest.partition("_")
    if not slug:
        return LabTitle("", "", shown(lab, NAME_LIMIT))
    place = f"lab {int(number)}" if number.isascii() and number.isdigit() else number
    words = " ".join(word.upper() if word in _ACRONYMS else word for word in slug.split("_"))
    return LabTitle(course.upper(), place, words[:1].upper() + words[1:])


def moment(text: str | None) -> str:
    """An ISO 8601 time in words, or the text as it stands if it isn't one."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return shown(text or "", NAME_LIMIT)
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()


def duration(seconds: float) -> str:
    """A length of time in its two largest units: 2 days 3 h, 4 min 10 s, 850 ms."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "days" if days > 1 else "day"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in [part for part in parts if part[0]][:2])


def measured(evidence: Evidence, value: float) -> str:
    """`value`, in the unit of the budget's limits, as a phrase: "3.4 times as fast as the baseline"."""
    number, other = plots.number(value), plots.other_side(evidence)
    phrases = {
        "speedup": f"{number} times as fast as {other}",
        "slowdown": f"{number}× {other}’s time",
        "latency_p99": f"{number}× {other}’s p99",
        "recall_at_k": f"{number} below {other}’s recall" if value > 0 else f"no less recall than {other}",
    }
    return phrases.get(evidence.kind, f"{number} {evidence.unit}".strip())


def needed(evidence: Evidence) -> str:
    """The budget's tiers as one phrase: "full credit from 4×, 50 % from 2×"."""
    word = "from" if evidence.kind == "speedup" else "up to"
    unit = "×" if evidence.kind in ("speedup", "slowdown", "latency_p99") else ""
    return ", ".join(f"{plots.credit(tier)} {word} {plots.number(tier.limit)}{unit}" for tier in evidence.tiers)


def measurement(evidence: Evidence) -> list[tuple[str, str]]:
    """How the measure was taken, as (name, value) rows; what the evidence does not hold has no row."""
    crashed = sum(not math.isfinite(ratio) for ratio in evidence.ratios)
    rows = [
        ("work", evidence.workload),
        ("pairs of blocks" if evidence.latencies_ms else "pairs of trials", f"{evidence.pairs}" if evidence.pairs else ""),
        ("crashed or timed out", f"{crashed}, each counted as the worst ratio" if crashed else ""),
        ("evidence that the budget is exceeded", _e_value(evidence.e_value_fail)),
        ("evidence that the budget is kept", _e_value(evidence.e_value_pass)),
        ("wall-clock ratio (does not decide)", f"{plots.number(evidence.wall_ratio)}×" if evidence.wall_ratio is not None else ""),
        ("load of the machine", plots.number(evidence.load) if evidence.load is not None else ""),
        ("took", duration(evidence.seconds) if evidence.seconds else ""),
    ]
    return [(name, value) for name, value in rows if value]


class KernelTable(NamedTuple):
    """Rows of compiled kernels: each its words (name, signature), then its numbers in the order of `columns`."""

    columns: list[str]
    rows: list[tuple[list[str], list[int | str]]]


def kernel_table(kernels: Sequence[dict[str, str | int]]) -> KernelTable:
    """Sort what is known of each kernel into words and numbers; array types in Numba's short form, `float32[:,:]`."""
    columns = list(dict.fromkeys(key for kernel in kernels for key, value in kernel.items() if isinstance(value, int)))[:4]
    rows = []
    for kernel in kernels:
        words = [shown(value, 10 * NAME_LIMIT) for value in kernel.values() if isinstance(value, str)][:2]
        short = [_NUMBA_ARRAY.sub(lambda found: f"{found[1]}[{','.join(':' * int(found[2]))}]", word) for word in words]
        rows.append((short, [kernel.get(column, "") for column in columns]))
    return KernelTable(columns, rows)


def _e_value(value: float | None) -> str:
    if value is None:
        return ""
    return f"e-value {plots.number(value) if value < 1e6 else 'above a million'}"


# ---- One report ----


def anchor(check: str) -> str:
    """The fragment of a check on its page, from its name."""
    return "check-" + re.sub(r"[^A-Za-z0-9_-]", "-", check)[:NAME_LIMIT]


def render_report(report: Report, *, href_index: str | None = None) -> str:
    """Return the page of `report` as one HTML document of less than `PAGE_LIMIT` bytes, with a link to `href_index` if given.

    A report with so much text that its page would weigh more is rendered with shorter excerpts, at last without plots.
    """
    drawings = {check.name: plots.evidence_svg(check.evidence) for check in report.checks if check.evidence}
    page = ""
    for limit, drawn, items in ((TEXT_LIMIT, True, 40), (1000, True, 20), (200, True, 10), (200, False, 10), (60, False, 5)):
        page = (
            _environment()
            .get_template("report.html.j2")
            .render(
                report=report,
                limit=limit,
                items=items,
                href_index=href_index,
                title=lab_title(report.lab),
                plots=drawings if drawn else {},
                manual_points=sum(answer.max_points for answer in report.manual),
                lost=_most_lost(report.checks),
                counts=Counter(check.outcome for check in report.checks),
            )
        )
        if len(page.encode()) < PAGE_LIMIT:
            break
    return page


def _verdict(check: CheckResult) -> str:
    """The budget's sentence, unless the check's message says it already."""
    verdict = check.evidence.verdict if check.evidence else ""
    return "" if verdict.casefold().rstrip(".") in check.message.casefold() else verdict


def _most_lost(checks: Sequence[CheckResult]) -> list[CheckResult]:
    """The checks that cost points, dearest first. A grader's error costs none, so it is not among them."""
    lost = [check for check in checks if check.outcome != "error" and check.max_points - check.points > 1e-9]
    return sorted(lost, key=lambda check: check.points - check.max_points)


def _paragraphs(sentence: str) -> tuple[str, str]:
    """Split a check's docstring into what must hold and the hint, either of them possibly empty."""
    must_hold, _, hint = inspect.cleandoc(sentence).partition("\n\n")
    return " ".join(must_hold.split()), hint.strip()


def _sides(counterexample: Counterexample, limit: int) -> list[tuple[str, Markup]]:
    """Expected and actual, side by side; where both are there, with their differences marked."""
    texts = [None if text is None else shown(text, limit) for text in (counterexample.expected, counterexample.actual)]
    names = ("expected", "yours")
    if texts[0] is not None and texts[1] is not None:
        return list(zip(names, mark_difference(texts[0], texts[1]), strict=True))
    return [(name, escape(text)) for name, text in zip(names, texts, strict=True) if text is not None]


# ---- The class ----


def render_index(reports: Iterable[Report], course_title: str) -> str:
    """Return the page of the class: every student's points in every lab, and for each lab its scores and the pass rate of its checks.

    Links lead to the pages as `write_feedback` names them, relative to its folder. Of two reports of one student and lab, the last counts.
    """
    latest = {(report.lab, report.student): report for report in reports}
    by_lab: dict[str, list[Report]] = {}
    for key in sorted(latest):
        by_lab.setdefault(key[0], []).append(latest[key])
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            course_title=course_title,
            limit=TEXT_LIMIT,
            labs=[_lab_summary(lab, entries) for lab, entries in by_lab.items()],
            students=sorted({student for _, student in latest}),
            latest=latest,
            graded_at=max((report.graded_at for report in latest.values()), default=None),
        )
    )


def _counted(report: Report) -> float:
    """The points that count: `late_penalty` is the fraction of them that coming late costs."""
    return report.points * (1 - report.late_penalty)


def _fraction(report: Report) -> float:
    return report.points / report.max_points if report.max_points else 0.0


def _lab_summary(lab: str, reports: list[Report]) -> dict[str, Any]:
    """What the class's page says of one lab; its students in order of points, lowest first, as a TA reads them."""
    checks: dict[str, list[tuple[Report, CheckResult]]] = {}
    for report in reports:
        for check in report.checks:
            checks.setdefault(check.name, []).append((report, check))
    fractions = [_fraction(report) for report in reports]
    return {
        "slug": lab,
        "title": lab_title(lab),
        "reports": sorted(reports, key=lambda report: (_counted(report), report.student)),
        "max_points": max(report.max_points for report in reports),
        "median": median(fractions),
        "full": sum(fraction >= 1 - 1e-9 for fraction in fractions),
        "attention": sum(_needs_attention(report) for report in reports),
        "scores_svg": plots.scores_svg(fractions),
        "checks": [
            {
                "name": name,
                "sentence": _paragraphs(results[0][1].sentence)[0],
                "counts": Counter(check.outcome for _, check in results),
                "total": len(results),
                "stuck": [report.student for report, check in results if check.outcome in ("fail", "partial", "error")],
            }
            for name, results in checks.items()
        ],
    }


def _needs_attention(report: Report) -> bool:
    """Whether a person should look: an unreadable submission, signs of tampering, or a grader's error."""
    return bool(report.problem or report.tampering or any(check.outcome == "error" for check in report.checks))


def page_href(student: str, lab: str) -> str:
    """The address of a report's page, relative to the feedback folder."""
    return "/".join(quote(part, safe="", errors="replace") for part in (student, lab, f"{lab}.html"))


def write_feedback(reports: Iterable[Report], feedback_dir: Path, progress: Callable[[Path], None] | None = None) -> list[Path]:
    """Write `<student>/<lab>/<lab>.html` for each report and `index.html`; return the paths, the index last.

    Each file appears whole or not at all. `progress` is called with each report's page once it is written. Raises ReportError, before
    anything is written, for a student or lab whose name can't be a folder.
    """
    reports = list(reports)
    for report in reports:
        for what, name in (("student", report.student), ("lab", report.lab)):
            if not name or name.startswith(".") or len(name.encode(errors="replace")) > 200 or _UNSAFE_SEGMENT.search(name):
                raise ReportError(f"The {what} name {name!r} can't be a folder in {feedback_dir}. Nothing was written.")
    written = []
    for report in reports:
        path = feedback_dir / report.student / report.lab / f"{report.lab}.html"
        write_atomically(path, render_report(report).encode())
        written.append(path)
        if progress:
            progress(path)
    index = feedback_dir / "index.html"
    course = reports[0].course if reports else ""
    write_atomically(index, render_index(reports, course).encode())
    return [*written, index]


@cache
def _environment() -> Environment:
    """The templates, with the filters through which every string reaches a page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
    from jinja2.runtime import Context

    @pass_context
    def text(context: Context, value: str) -> str:
        return shown(str(value), context["limit"])

    @pass_context
    def rich(context: Context, value: str) -> Markup:
        return prose(text(context, value))

    @pass_context
    def sides(context: Context, counterexample: Counterexample) -> list[tuple[str, Markup]]:
        return _sides(counterexample, context["limit"])

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "text": text,
        "rich": rich,
        "sides": sides,
        "name": lambda value: shown(str(value), NAME_LIMIT),
        "points": points,
        "moment": moment,
        "duration": duration,
        "paragraphs": _paragraphs,
        "anchor": anchor,
        "lab_title": lab_title,
        "svg": Markup,
    }
    environment.globals |= {
        "OUTCOMES": OUTCOMES,
        "kernel_table": kernel_table,
        "measured": measured,
        "needed": needed,
        "measurement": measurement,
        "verdict": _verdict,
        "page_href": page_href,
        "evidence_number": plots.number,
        "counted": _counted,
        "fraction": _fraction,
        "needs_attention": _needs_attention,
    }
    return environment
