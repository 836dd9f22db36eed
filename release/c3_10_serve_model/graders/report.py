"""The record of one graded submission: the single source that gradebook, feedback and exports are rendered from.

Every string in it that came from a student is plain text; each renderer escapes it for its own sink.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from graders.problems import UserProblem

SCHEMA = "classroom/report/v1"

Outcome = Literal["pass", "partial", "fail", "error", "not_run"]
Kind = Literal["test", "property", "budget"]


class Counterexample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The smallest call that breaks a check, as text that can be pasted into the notebook."""

    call: str
    expected: str | None = None
    actual: str | None = None
    traceback: str | None = None


class Tier(msgspec.Struct, kw_only=True):
    """One level of credit of a budget: `credit` in (0, 1] of the points when the measure keeps `limit`."""

    credit: float
    limit: float


class Evidence(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a budget's verdict rests on.

    `ratios` are t_student / t_other of each pair (dimensionless). `measured` is in the unit of `tiers[].limit`: for a speedup,
    1 / median ratio; for a slowdown the median ratio; for recall the shortfall below the oracle; for a count the count;
    for latency_p99 the ratio of the two p99s. `interval` bounds `measured` (95 %, from order statistics). `latencies_ms` holds the
    latencies of the student's and the reference's requests. `curve` holds points (x, y) to draw, with `curve_labels` for its two axes.
    """

    kind: str
    against: str | None = None
    workload: str = ""
    tiers: list[Tier] = []
    measured: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    verdict: str = ""
    pairs: int = 0
    ratios: list[float] = []
    e_value_fail: float | None = None
    e_value_pass: float | None = None
    wall_ratio: float | None = None
    latencies_ms: dict[str, list[float]] = {}
    curve: dict[str, list[tuple[float, float]]] = {}
    curve_labels: tuple[str, str] | None = None
    kernels: list[dict[str, str | int]] = []
    load: float | None = None
    seconds: float = 0.0


class CheckResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One check's outcome. `sentence` is the check's docstring, `message` what happened, in one or two sentences."""

    name: str
    kind: Kind
    sentence: str
    outcome: Outcome
    fraction: float
    points: float
    max_points: float
    message: str = ""
    counterexample: Counterexample | None = None
    evidence: Evidence | None = None
    seconds: float = 0.0
    hidden: bool = False


class ManualAnswer(msgspec.Struct, kw_only=True):
    """A question that a TA grades; `answered` is false when the cell was left as released."""

    grade_id: str
    max_points: float
    answered: bool
    text: str = ""


class CellError(msgspec.Struct, kw_only=True):
    """A notebook cell that raised while the submission was loaded. `cell` is its position, counted from 1."""

    cell: int
    grade_id: str | None
    message: str
    traceback: str = ""


class Machine(msgspec.Struct, kw_only=True):
    """Where the grading ran."""

    cpu: str
    cores: int
    python: str
    platform: str
    load: float


class Report(msgspec.Struct, kw_only=True):
    """One graded submission. `points` and `max_points` count the checks only, not the manual answers.

    `late_penalty` is the fraction of the points that lateness costs, in [0, 1]; `points` are before it.
    """

    course: str
    lab: str
    student: str
    submission: str
    graded_at: str
    isolation: str
    checks: list[CheckResult]
    points: float
    max_points: float
    machine: Machine
    schema: str = SCHEMA
    grader: str = ""
    seed_commitment: str = ""
    manual: list[ManualAnswer] = []
    tampering: list[str] = []
    cell_errors: list[CellError] = []
    problem: str | None = None
    submitted_at: str | None = None
    late_seconds: float = 0.0
    late_penalty: float = 0.0
    seconds: float = 0.0


class ReportError(UserProblem):
    """A report file that can't be read; the message says which file and what to do."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_report(report: Report, path: Path) -> None:
    """Write `report` as indented JSON."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read_report(path: Path) -> Report:
    """Read a report; raise ReportError with a sentence for a missing, broken or differently versioned file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: can't be read ({error.strerror}). Run `classroom grade` first.") from None
    try:
        schema = msgspec.json.decode(data, type=dict).get("schema")
        if schema != SCHEMA:
            raise ReportError(f"{path}: its schema is {schema!r}, this grader reads {SCHEMA!r}. Regrade with `--force`.")
        return msgspec.json.decode(data, type=Report)
    except msgspec.MsgspecError as error:
        raise ReportError(f"{path}: not a valid report ({error}). Regrade with `--force`.") from None
