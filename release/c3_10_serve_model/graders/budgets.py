"""Performance budgets: what `perf_budgets/<lab>.yml` says, and the form of it that students get.

The limits, their kinds and units are those of docs/authoring.md. Numbers here are never absolute times: a budget is a ratio to another
implementation that runs beside the student's, a recall below an oracle's, or a count.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from graders.report import Tier
from graders.yaml_file import Document, FieldError

BudgetKind = Literal["speedup", "slowdown", "recall_at_k", "count", "latency_p99"]
Against = Literal["baseline", "reference"]

# A ratio needs another side to be measured against; of the others, the best value is zero.
RATIO_KINDS = ("speedup", "slowdown", "latency_p99")
INDICATIVE = "indicative: against the baseline; the official grade measures against the reference"


class Receipt(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a budget's numbers come from. `measured` holds what each implementation reached, in the unit of the limits."""

    machine: Annotated[str, Meta(min_length=1, description="cores, instruction set and Python that measured")]
    date: Annotated[dt.date, Meta(description="the day of the measurement")]
    command: Annotated[str, Meta(min_length=1, description="what to run to measure again")]
    measured: Annotated[dict[str, float], Meta(min_length=1, description="implementation → what it reached, in the unit of the limits")]

    def __post_init__(self) -> None:
        for name, value in self.measured.items():
            if not math.isfinite(value):
                raise FieldError("must be a finite number.", "measured", name)


class WorkerLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What grading one submission may use in all: memory of all its processes in MiB, and seconds of wall time."""

    memory_mb: Annotated[int, Meta(gt=0, description="memory of all processes together, in MiB")] = 2048
    seconds: Annotated[float, Meta(gt=0, description="wall time of the whole grading, in seconds")] = 240


class Budget(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One measured cost and the limits that earn credit.

    `alpha` bounds the probability that a submission which keeps its budget is failed, `beta` that one which doesn't is passed;
    `seconds` is the time allowance of the whole measurement. Raises FieldError when two fields contradict each other.
    """

    kind: Annotated[BudgetKind, Meta(description="what is measured, and how `limit` reads")]
    tiers: Annotated[list[Tier], Meta(min_length=1, description="credit for keeping a limit, best first")]
    receipt: Annotated[Receipt, Meta(description="the machine, date and command behind the numbers, and what was measured")]
    workload: Annotated[str, Meta(description="what one trial does, in words that the student reads")] = ""
    against: Annotated[Against | None, Meta(description="the other side of a ratio")] = None
    reference_over_baseline: Annotated[
        float | None, Meta(description="how many times faster than the baseline the reference was measured to be")
    ] = None
    alpha: Annotated[float, Meta(gt=0, lt=1, description="bound on the probability that a submission within its budget is failed")] = 0.001
    beta: Annotated[float, Meta(gt=0, lt=1, description="bound on the probability that a submission beyond its budget is passed")] = 0.01
    max_pairs: Annotated[int, Meta(ge=1, description="pairs of trials after which a ratio stays undecided")] = 200
    seconds: Annotated[float, Meta(gt=0, description="time allowance of the measurement, in seconds")] = 60
    rate: Annotated[float | None, Meta(description="requests a second, for latency_p99")] = None
    k: Annotated[int | None, Meta(description="neighbours, for recall_at_k")] = None

    def __post_init__(self) -> None:
        self._check_tiers()
        if self.kind in RATIO_KINDS and self.against is None:
            raise FieldError(f"is missing: a {self.kind} is measured against the baseline or the reference.", "against")
        if self.kind not in RATIO_KINDS and self.against is not None:
            raise FieldError(f"must go: a {self.kind} is measured against no other implementation.", "against")
        if self.against == "reference" and self.reference_over_baseline is None:
            problem = "is missing: on a student's machine there is no reference, and the limits are scaled to the baseline by it."
            raise FieldError(problem, "reference_over_baseline")
        for name, value in self.receipt.measured.items():
            if self.kind in RATIO_KINDS and value <= 0:
                raise FieldError(f"must be > 0, as every {self.kind} is, but it is {value:g}.", "receipt", "measured", name)
        for name in ("reference_over_baseline", "rate", "k", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise FieldError(f"must be a finite number > 0, but it is {value}.", name)

    def _check_tiers(self) -> None:
        for position, tier in enumerate(self.tiers):
            if not 0 < tier.credit <= 1:
                raise FieldError(f"must be > 0 and at most 1, but it is {tier.credit:g}.", "tiers", position, "credit")
            lowest_is_fine = tier.limit == 0 and self.kind not in RATIO_KINDS
            if not (0 < tier.limit < math.inf or lowest_is_fine):
                bound = "> 0" if self.kind in RATIO_KINDS else ">= 0"
                raise FieldError(f"must be a finite number {bound}, but it is {tier.limit:g}.", "tiers", position, "limit")
        for position, (better, worse) in enumerate(pairwise(self.tiers), start=1):
            if worse.credit >= better.credit:
                problem = f"must be below {better.credit:g}, the credit before it: tiers stand best first."
                raise FieldError(problem, "tiers", position, "credit")
            if self.kind == "speedup" and worse.limit >= better.limit:
                problem = f"must be below {better.limit:g}, the limit before it: less credit asks for less speed-up."
                raise FieldError(problem, "tiers", position, "limit")
            if self.kind != "speedup" and worse.limit <= better.limit:
                problem = f"must be above {better.limit:g}, the limit before it: less credit allows a higher {self.kind}."
                raise FieldError(problem, "tiers", position, "limit")

    def on_push(self) -> Budget:
        """The budget as it is measured without the reference: relative to the baseline, and indicative.

        With g = `reference_over_baseline`, at most r × the time of the reference becomes at least g/r × as fast as the baseline, and
        at least s × as fast as the reference at least g·s ×; a p99 of r × the reference's becomes r/g × the baseline's. Limits
        and measured values are scaled alike, to four digits. A budget that does not need the reference is returned as it is.
        """
        if self.against != "reference" or self.reference_over_baseline is None:
            return self
        gain = self.reference_over_baseline

        def scaled(value: float) -> float:
            over_baseline = {"slowdown": gain / value, "speedup": gain * value, "latency_p99": value / gain}
            return float(f"{over_baseline[self.kind]:.4g}")

        measured = {name: scaled(value) for name, value in self.receipt.measured.items()}
        return msgspec.structs.replace(
            self,
            kind="speedup" if self.kind == "slowdown" else self.kind,
            against="baseline",
            reference_over_baseline=None,
            tiers=[Tier(credit=tier.credit, limit=scaled(tier.limit)) for tier in self.tiers],
            receipt=msgspec.structs.replace(self.receipt, measured=measured),
            workload=f"{self.workload} ({INDICATIVE})" if self.workload else INDICATIVE,
        )


class LabBudgets(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The budgets of one lab, the libraries hidden from its worker and the limits of one submission's grading."""

    lab: Annotated[str, Meta(min_length=1, description="the lab's slug, which is also the file's name")]
    reference: Annotated[str | None, Meta(description="module with the same public names as the student's, e.g. reference.simd")] = None
    forbidden: Annotated[list[str], Meta(description="top-level packages hidden from the worker")] = []
    limits: Annotated[WorkerLimits, Meta(description="what grading one submission may use")] = msgspec.field(default_factory=WorkerLimits)
    budgets: Annotated[dict[str, Budget], Meta(description="name → budget, as `@check(budget=name)` asks for it")] = {}

    def __post_init__(self) -> None:
        if self.reference is not None and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", self.reference):
            raise FieldError(f'must be a module such as reference.simd, but it is "{self.reference}".', "reference")
        for position, package in enumerate(self.forbidden):
            if not package.isidentifier():
                raise FieldError(f'must be a top-level package such as faiss, but it is "{package}".', "forbidden", position)
        for name, budget in self.budgets.items():
            if not name.isidentifier():
                raise FieldError("must be a name of letters, digits and _, as in `@check(budget=...)`.", "budgets", name)
            if budget.against == "reference" and self.reference is None:
                raise FieldError("can't be reference: the file names no `reference:` module.", "budgets", name, "against")


def load_budgets(path: Path) -> LabBudgets:
    """Read `perf_budgets/<lab>.yml`, or its public form; raise ConfigError with the line and field.

    In a folder `perf_budgets` the file's name must be the lab's slug: a copied file would else measure another lab.
    """
    document = Document(path)
    budgets = document.convert(LabBudgets)
    if path.parent.name == "perf_budgets" and path.stem != budgets.lab:
        raise document.error(f'must be "{path.stem}" as the file is named, but it is "{budgets.lab}".', "lab")
    return budgets


def public_yaml(budgets: LabBudgets) -> bytes:
    """The file that is shipped to students: no reference, each budget in its `on_push` form. The same input gives the same bytes."""
    public = msgspec.structs.replace(budgets, reference=None, budgets={name: budget.on_push() for name, budget in budgets.budgets.items()})
    plain = msgspec.to_builtins(public, builtin_types=(dt.date,))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    return f"# Generated from perf_budgets/{budgets.lab}.yml: change it there.\n{text}".encode()
