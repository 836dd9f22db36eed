"""Checks: declaring them in a lab, loading a lab's, and running one against a subject.

The declaration follows check50: the decorated function's docstring is the sentence that the student reads.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

from graders.counterexample import as_code, describe_calls
from graders.expect import Mismatch
from graders.report import CheckResult, Counterexample, Kind
from graders.subject import StudentError, Subject
from graders.worker.client import WorkerLost

DEFAULT_EXAMPLES = 50
DEFAULT_SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One graded statement about a submission.

    `function(lab)` raises to fail; with `budget`, `function(lab, budget)` returns what a method of `budget` returned.
    `seconds` bounds the whole check. `hidden` checks run in official grading only.
    """

    name: str
    sentence: str
    function: Callable[..., Any]
    after: tuple[str, ...] = ()
    budget: str | None = None
    max_examples: int = DEFAULT_EXAMPLES
    seconds: float = DEFAULT_SECONDS
    hidden: bool = False

    @property
    def kind(self) -> Kind:
        """test, property or budget."""
        if self.budget is not None:
            return "budget"
        return "property" if hasattr(self.function, "hypothesis") else "test"


@overload
def check(function: Callable[..., Any], /) -> Check: ...
@overload
def check(
    *, after: str | tuple[str, ...] = ..., budget: str | None = ..., max_examples: int = ..., seconds: float = ...
) -> Callable[[Callable[..., Any]], Check]: ...


def check(
    function: Callable[..., Any] | None = None,
    /,
    *,
    after: str | tuple[str, ...] = (),
    budget: str | None = None,
    max_examples: int = DEFAULT_EXAMPLES,
    seconds: float = DEFAULT_SECONDS,
) -> Any:
    """Declare a check. `after` names prerequisites, `budget` an entry of the lab's perf_budgets file.

    Raises TypeError when the function has no docstring: that sentence is what the student reads.
    """

    def declare(function: Callable[..., Any]) -> Check:
        sentence = inspect.getdoc(function)
        if not sentence:
            raise TypeError(f"the check {function.__name__} needs a docstring: it is the sentence that its student reads")
        return Check(
            name=function.__name__,
            sentence=sentence,
            function=function,
            after=(after,) if isinstance(after, str) else tuple(after),
            budget=budget,
            max_examples=max_examples,
            seconds=seconds,
            hidden=function.__module__.endswith(".hidden"),
        )

    return declare if function is None else declare(function)


def load_checks(lab: str, *, hidden: bool = True) -> dict[str, Check]:
    """Return the checks of `lab` by name, in the order of their declaration; the hidden ones where they are installed."""
    package = f"graders.labs.{lab}"
    modules = ["checks"]
    if hidden and importlib.util.find_spec(f"{package}.hidden") is not None:
        modules.append("hidden")
    found: dict[str, Check] = {}
    for module in modules:
        for value in vars(importlib.import_module(f"{package}.{module}")).values():
            if isinstance(value, Check):
                if found.get(value.name, value) is not value:
                    raise TypeError(f"{package}: two checks are named {value.name}")
                found[value.name] = value
    for each in found.values():
        missing = [name for name in each.after if name not in found]
        if missing:
            raise TypeError(f"{package}: {each.name} comes after {missing[0]}, which is not a check")
    return found


def in_order(checks: dict[str, Check]) -> list[Check]:
    """Return the checks so that each comes after its prerequisites, otherwise as declared."""
    import graphlib

    return [checks[name] for name in graphlib.TopologicalSorter({each.name: each.after for each in checks.values()}).static_order()]


class GraderFault(Exception):
    """The check itself broke, not the student's code as far as can be told from this run alone."""


def run_check(check: Check, subject: Subject, *, seed: int, max_points: float, budget_run: Any = None) -> CheckResult:
    """Run one check and return its result; every failure of the student's code becomes a result.

    Raises GraderFault when the check broke with a student's value in hand: the caller finds out whose fault that is by running
    it on the reference solution. After WorkerLost the result says so and the caller must start a new worker.
    """
    started = time.monotonic()
    subject.begin_example()
    result = CheckResult(
        name=check.name,
        kind=check.kind,
        sentence=check.sentence,
        outcome="pass",
        fraction=1.0,
        points=max_points,
        max_points=max_points,
        hidden=check.hidden,
    )
    try:
        if check.kind == "property":
            from graders.properties import run_property

            run_property(check, subject, seed)
        elif check.kind == "budget":
            verdict = check.function(subject, budget_run)
            result.fraction, result.outcome = verdict.fraction, verdict.outcome
            result.message, result.evidence = verdict.message, verdict.evidence
        else:
            check.function(subject)
    except (AssertionError, StudentError, WorkerLost) as error:
        _fail(result, error, subject)
    except Exception as error:
        raise GraderFault(f"{type(error).__name__}: {error}") from error
    result.points = round(result.fraction * max_points, 6)
    result.seconds = round(time.monotonic() - started, 3)
    return result


def failed(result: CheckResult, message: str) -> CheckResult:
    """Turn `result` into a fail without points."""
    result.outcome, result.fraction, result.points, result.message = "fail", 0.0, 0.0, message
    return result


def _fail(result: CheckResult, error: BaseException, subject: Subject) -> None:
    calls = getattr(error, "calls", None) or subject.calls
    shown = Counterexample(call=describe_calls(calls))
    if isinstance(error, StudentError):
        message = f"Your code raised {error}"
        shown.traceback = error.traceback or None
    elif isinstance(error, WorkerLost):
        message = error.sentence
    elif isinstance(error, Mismatch):
        message = error.message
        shown.expected = None if error.expected is None else as_code(error.expected)
        shown.actual = None if error.expected is None and error.actual is None else as_code(error.actual)
    else:
        message = str(error) or "The statement does not hold."
    failed(result, message[:2000])
    if shown.call or shown.traceback:
        result.counterexample = shown
