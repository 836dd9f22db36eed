"""Small inline SVG plots of a budget's evidence, for the feedback pages.

Each function returns one `<svg>` element as a string, or "" when there is nothing to draw. Colours are CSS variables of the page
(`--ink`, `--accent`, `--pass`, …), so that one drawing serves light and dark; text stays text; the same input gives the same bytes.
Labels are drawn literally (never as mathtext). Matplotlib's settings are process-wide, so call these from one thread at a time.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from graders.report import Evidence, Tier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that Matplotlib accepts as colours; `_svg` swaps them for the page's CSS variables.
INK, MUTED, LINE, ACCENT, PASS, PARTIAL, PAPER = (f"#0{i}0{i}0{i}" for i in range(1, 8))
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", PASS: "pass", PARTIAL: "partial", PAPER: "card"}
# Drawn at the width of a phone, scaled up on a desk: the text stays readable at both.
WIDTH_INCHES = 3.9
LOG_SPAN = 4.0
MAX_TIERS = 3
# What a plot shows of a ratio, a time or a limit: beyond, floating point and the axes break down.
SMALLEST, LARGEST = 1e-9, 1e9
OWN_NAMES = ("student", "you", "yours")
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "path.simplify": True,
}


def ratio_svg(evidence: Evidence) -> str:
    """Histogram of the paired trials with median and 95 % interval, over the regions of credit.

    The x axis is in the unit of the tiers: for a speedup "times as fast as the baseline" (1 / ratio), else the student's time
    divided by the other side's. Logarithmic when it spans more than 4×. Ratios that are not finite (crashed trials) are left out.
    """
    ratios = np.array([ratio for ratio in evidence.ratios if SMALLEST < ratio < LARGEST])
    if not len(ratios):
        return ""
    other = other_side(evidence)
    faster_is_larger = evidence.kind == "speedup"
    values = 1 / ratios if faster_is_larger else ratios
    label = f"times as fast as {other}" if faster_is_larger else f"your time ÷ {other}’s time"
    low, high, log = _range([*values, *_limits(evidence.tiers)])
    with _settings():
        figure, axes = _canvas(1.9, top=_label_room(evidence.tiers))
        _scale(axes, low, high, log)
        bins = int(np.clip(4 * math.sqrt(len(values)), 16, 48)) + 1
        edges = np.geomspace(low, high, bins) if log else np.linspace(low, high, bins)
        counts, _ = np.histogram(values, edges)
        top = float(counts.max())
        axes.stairs(counts, edges, fill=True, color=ACCENT, alpha=0.75, linewidth=0)
        _credit_regions(axes, evidence.tiers, low, high, at_least=faster_is_larger)
        _median_mark(axes, evidence, float(np.median(values)), top, log)
        axes.set_ylim(-0.42 * top, 1.06 * top)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        return _svg(figure, f"Distribution of {len(ratios)} paired trials: {label}, median {number(float(np.median(values)))}")


def latency_svg(evidence: Evidence) -> str:
    """Share of requests slower than a given latency, for each side, with both p99 marks and the budget as a line.

    The y axis is logarithmic (100 %, 10 %, 1 %, …), so the tail that a p99 is about takes as much room as the bulk. The budget
    is the best tier's limit times the reference's p99, but at least `FLOOR_MS`, as `graders.latency` reckons it.
    """
    from graders.latency import FLOOR_MS

    samples = {side: np.sort([t for t in times if SMALLEST < t < LARGEST]) for side, times in evidence.latencies_ms.items()}
    samples = {side: times for side, times in samples.items() if len(times)}
    if not samples:
        return ""
    p99 = {side: float(np.quantile(times, 0.99)) for side, times in samples.items()}
    other = [value for side, value in p99.items() if side not in OWN_NAMES]
    tiers = [Tier(credit=tier.credit, limit=max(FLOOR_MS, tier.limit * other[0])) for tier in _valid(evidence.tiers)] if other else []
    low, high, log = _range([*(t for times in samples.values() for t in (times[0], times[-1])), *_limits(tiers)])
    floor = 0.5 / max(len(times) for times in samples.values())
    with _settings():
        figure, axes = _canvas(2.5, left=0.62, top=_label_room(evidence.tiers), bottom=0.66)
        _scale(axes, low, high, log, suffix=" ms")
        for side, times in samples.items():
            colour = ACCENT if side in OWN_NAMES else MUTED
            shown = times[_thin(len(times))]
            slower = 1 - (_thin(len(times)) + 1) / len(times)
            axes.step([low, *shown], [1, *np.maximum(slower, floor)], where="post", color=colour, linewidth=1.5)
            axes.plot([p99[side]], [0.01], "o", color=colour, markersize=5, markeredgecolor=PAPER, zorder=5)
        axes.set_yscale("log")
        axes.set_ylim(floor, 1)
        axes.set_yticks([share for share in (1, 0.1, 0.01, 0.001) if share >= floor], minor=False)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share * 100:g} %")
        axes.axhline(0.01, color=LINE, linewidth=0.8, zorder=0)
        _credit_regions(axes, tiers, low, high, at_least=False, unit=" ms")
        axes.set_xlabel("latency from the scheduled time")
        axes.set_ylabel("requests slower than that")
        _legend(axes, [(_side(side) + f", p99 {number(p99[side])} ms", ACCENT if side in OWN_NAMES else MUTED) for side in samples])
        return _svg(figure, "; ".join(f"{_side(side)}: p99 {number(value)} ms" for side, value in p99.items()))


def curve_svg(evidence: Evidence) -> str:
    """The curves of both sides, e.g. recall against effort; for recall, with the line above which credit is full."""
    curves = {side: sorted((x, y) for x, y in points if abs(x) < LARGEST and abs(y) < LARGEST) for side, points in evidence.curve.items()}
    curves = {side: points for side, points in curves.items() if points}
    if not curves:
        return ""
    xs = [x for points in curves.values() for x, _ in points]
    x_label, y_label = evidence.curve_labels or ("", "")
    with _settings():
        figure, axes = _canvas(2.5, left=0.62, top=0.24, bottom=0.66)
        low, high, log = _range(xs) if min(xs) > SMALLEST else (min(xs), max(*xs, min(xs) + 1), False)
        _scale(axes, low, high, log, suffix="")
        for side, points in curves.items():
            own = side in OWN_NAMES
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "o-", color=ACCENT if own else MUTED, linewidth=1.5, markersize=4, markeredgecolor=PAPER, zorder=3 + own)
        axes.margins(y=0.12)
        oracle = [points for side, points in curves.items() if side not in OWN_NAMES]
        tiers = _valid(evidence.tiers)
        if evidence.kind == "recall_at_k" and oracle and tiers:
            efforts, recalls = np.array(oracle[0]).T
            edge = recalls - tiers[0].limit
            axes.plot(efforts, edge, linestyle=(0, (4, 3)), color=PASS, linewidth=1)
            bottom, top = axes.get_ylim()
            axes.fill_between(efforts, edge, top, color=PASS, alpha=0.10, linewidth=0)
            axes.text(
                1, 1.02, "full credit above the dashed line", color=PASS, ha="right", va="bottom", fontsize=8, transform=axes.transAxes
            )
            axes.set_ylim(bottom, top)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _legend(axes, [(_side(side), ACCENT if side in OWN_NAMES else MUTED) for side in curves])
        return _svg(figure, f"{y_label} against {x_label}: " + ", ".join(map(_side, curves)))


def measure_svg(evidence: Evidence) -> str:
    """One bar from zero to the measured value against the limits: for budgets without a distribution, such as counts."""
    measured, tiers = evidence.measured, _valid(evidence.tiers)
    if measured is None or not 0 <= measured < LARGEST or not tiers:
        return ""
    at_least = evidence.kind == "speedup"
    high = 1.15 * max(measured, *_limits(tiers))
    with _settings():
        figure, axes = _canvas(1.15, top=_label_room(tiers))
        _scale(axes, 0.0, high, False, suffix="")
        axes.barh([0], [measured], height=0.5, color=ACCENT, alpha=0.85)
        _credit_regions(axes, tiers, 0.0, high, at_least=at_least, unit="×" if at_least else "")
        axes.set_ylim(-0.55, 0.55)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(evidence.unit or "measured")
        return _svg(figure, f"measured {number(measured)} {evidence.unit}")


def evidence_svg(evidence: Evidence) -> str:
    """The plot that suits the evidence: latencies, else curves, else paired ratios, else a single bar."""
    return latency_svg(evidence) or curve_svg(evidence) or ratio_svg(evidence) or measure_svg(evidence)


def credit(tier: Tier) -> str:
    """The credit of a tier in words: "full credit", or its share such as "50 %"."""
    return "full credit" if tier.credit >= 1 else f"{tier.credit * 100:.0f} %"


def scores_svg(fractions: Sequence[float]) -> str:
    """Histogram of a class's scores, as fractions in [0, 1], in ten bins with the median marked."""
    if not fractions:
        return ""
    with _settings():
        figure, axes = _canvas(1.5, left=0.2, right=0.25, top=0.04, bottom=0.25)
        counts, edges = np.histogram(np.clip(fractions, 0, 1), bins=10, range=(0, 1))
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
            axes.bar(left, count, width=right - left - 0.012, align="edge", color=ACCENT, alpha=0.75, linewidth=0)
            if count:
                axes.text((left + right) / 2 - 0.006, count, str(count), ha="center", va="bottom", fontsize=8, color=MUTED)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.25 * counts.max())
        axes.axvline(median(fractions), color=INK, linewidth=1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(lambda fraction, _: f"{fraction * 100:.0f} %")
        return _svg(figure, f"Scores of {len(fractions)} submissions, median {median(fractions) * 100:.0f} %")


def other_side(evidence: Evidence) -> str:
    """How the text calls what a budget is measured against: "the reference", but plain "hnswlib"."""
    other = evidence.against or ("oracle" if evidence.kind == "recall_at_k" else "reference")
    return f"the {other}" if other in ("baseline", "oracle", "reference") else other


def number(value: float) -> str:
    """`value` for people: three significant digits below 1000, whole above, without an exponent."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "?"
    if value and abs(value) < 1000:
        value = float(f"{value:.3g}")
    return f"{value:,.10g}" if abs(value) < 1000 else f"{value:,.0f}"


# ---- Parts of a plot ----


def _settings() -> Any:
    import matplotlib

    return matplotlib.rc_context(cast(Any, _SETTINGS))


def _canvas(height: float, *, left: float = 0.12, right: float = 0.12, top: float = 0.08, bottom: float = 0.4) -> tuple[Figure, Axes]:
    """Return a figure and its axes with fixed margins in inches: a layout that measures text would depend on the host's fonts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height))
    figure.patch.set_visible(False)
    width = WIDTH_INCHES - left - right
    axes = figure.add_axes((left / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, (height - top - bottom) / height))
    axes.patch.set_visible(False)
    return figure, axes


def _rows(tiers: Sequence[Tier]) -> int:
    return min(len(_valid(tiers)), MAX_TIERS)


def _label_room(tiers: Sequence[Tier]) -> float:
    """Inches above the axes that the names of the tiers take."""
    return 0.08 + 0.155 * _rows(tiers)


def _valid(tiers: Sequence[Tier]) -> list[Tier]:
    return [tier for tier in tiers if SMALLEST < tier.limit < LARGEST]


def _limits(tiers: Sequence[Tier]) -> list[float]:
    return [tier.limit for tier in _valid(tiers)]


def _range(values: Sequence[float]) -> tuple[float, float, bool]:
    """Return padded ends of an axis that shows all of `values`, and whether it is logarithmic."""
    positive = [float(value) for value in values if value > 0]
    low, high = min(positive, default=0.5), max(positive, default=2.0)
    if high / low > LOG_SPAN:
        pad = (high / low) ** 0.06
        return low / pad, high * pad, True
    pad = 0.08 * (high - low) or 0.1 * high
    return max(low - pad, 0.0), high + pad, False


def _scale(axes: Axes, low: float, high: float, log: bool, suffix: str = "×") -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if log:
        axes.set_xscale("log")
        decades = math.log10(high / low)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,), numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}{suffix}")


def _credit_regions(axes: Axes, tiers: Sequence[Tier], low: float, high: float, *, at_least: bool, unit: str = "×") -> None:
    """Shade where each tier's credit is earned, best first, and name each limit above the plot, one row for each tier."""
    start = high if at_least else low
    logarithmic = axes.get_xscale() == "log"
    for row, tier in enumerate(_valid(tiers)[:MAX_TIERS]):
        colour = PASS if tier.credit >= 1 else PARTIAL
        axes.axvspan(min(start, tier.limit), max(start, tier.limit), color=colour, alpha=0.10, linewidth=0, zorder=0)
        axes.axvline(tier.limit, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
        text = f"{credit(tier)} {'≥' if at_least else '≤'} {number(tier.limit)}{unit}"
        place = math.log(tier.limit / low) / math.log(high / low) if logarithmic else (tier.limit - low) / (high - low)
        align = "left" if place < 0.5 else "right"
        axes.annotate(
            text,
            (tier.limit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2 if align == "left" else -2, 3 + 11 * (_rows(tiers) - 1 - row)),
            textcoords="offset points",
            ha=align,
            fontsize=8,
            color=colour,
        )
        start = tier.limit


def _median_mark(axes: Axes, evidence: Evidence, middle: float, top: float, log: bool) -> None:
    """Draw the median and its 95 % interval in a lane below the histogram."""
    lane = -0.2 * top
    if evidence.interval and all(math.isfinite(end) and end > 0 for end in evidence.interval):
        axes.plot(evidence.interval, [lane, lane], color=INK, linewidth=2, solid_capstyle="round")
    axes.plot([middle], [lane], "o", color=INK, markersize=5, markeredgecolor=PAPER, zorder=5)
    low, high = axes.get_xlim()
    place = math.log(middle / low) / math.log(high / low) if log else (middle - low) / (high - low)
    beyond = (evidence.interval or (middle, middle))[1 if place < 0.5 else 0]
    anchor = max(beyond, middle) if place < 0.5 else min(beyond, middle)
    align = "left" if place < 0.5 else "right"
    axes.annotate(
        f"median {number(middle)}×",
        (anchor, lane),
        xytext=(6 if align == "left" else -6, 0),
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=8,
    )


def _legend(axes: Axes, entries: list[tuple[str, str]]) -> None:
    """Name the sides below the plot in their own colours; the axes' top belongs to the limits."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=2) for _, colour in entries]
    names = [text for text, _ in entries]
    axes.figure.legend(handles, names, loc="lower center", ncols=2, frameon=False, fontsize=8, handlelength=1.2, borderpad=0)


def _thin(count: int, keep: int = 300) -> np.ndarray:
    """Return at most about `keep` indices of a sorted sample of `count`, closer together towards the slow end."""
    if count <= keep:
        return np.arange(count)
    ranks = count - 1 - np.unique(np.geomspace(1, count, keep).astype(int) - 1)
    return np.sort(ranks)


def _side(name: str) -> str:
    return "you" if name in OWN_NAMES else name.removeprefix("the ").removesuffix("'s")[:40]


def _svg(figure: Figure, description: str) -> str:
    """Render `figure` as an `<svg>` element to be placed in a page: no prolog, no ids in use elsewhere, CSS variables for colours."""
    import matplotlib

    buffer = io.StringIO()
    # Salted ids are a hash of what they define: two plots of a page share an id only where they share its definition.
    with matplotlib.rc_context({"svg.hashsalt": "classroom"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A glyph that the layout font lacks: the browser's own font draws it.
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    view = re.search(r'viewBox="([^"]+)"', text)
    opening = f'<svg class="plot" role="img" aria-label="{html.escape(description)}" viewBox="{view.group(1) if view else ""}"'
    return re.sub(r"<svg[^>]*>", lambda _: opening + ' xmlns:xlink="http://www.w3.org/1999/xlink">', text, count=1).strip()
