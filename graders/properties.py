"""Drives a Hypothesis property from the trusted side: seeded, without a database, silent, within a time limit.

The engine's failing example is the shrunk one: Hypothesis replays the smallest failure last, and its calls are kept.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Flaky
from hypothesis.reporting import with_reporter

from graders.checks import Check
from graders.expect import Mismatch
from graders.subject import StudentError, Subject

SHRINK_SECONDS = 4.0


class _OutOfTime(BaseException):
    """Ends a Hypothesis run from inside an example; not an Exception, so that it is not taken for a failing example."""


class _Examples:
    """Wraps the body of a property: counts examples, keeps the clock and the last failure with its calls."""

    def __init__(self, body: Callable[..., None], seconds: float) -> None:
        self.body = body
        self.deadline = time.monotonic() + seconds
        self.count = 0
        self.failure: BaseException | None = None
        self.failing_calls: list[Any] = []

    def run(self, lab: Subject, *args: Any, **kwargs: Any) -> None:
        """Run one example."""
        if time.monotonic() > self.deadline:
            raise _OutOfTime
        lab.begin_example()
        self.count += 1
        try:
            self.body(lab, *args, **kwargs)
        except (AssertionError, StudentError) as error:
            if self.failure is None:
                self.deadline = min(self.deadline, time.monotonic() + SHRINK_SECONDS)
            self.failure, self.failing_calls = error, copy.copy(lab.calls)
            raise


@functools.cache
def _configured(function: Callable[..., None], max_examples: int) -> Callable[..., None]:
    # Once for each function: Hypothesis refuses settings that are applied twice.
    return settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )(function)


def run_property(check: Check, subject: Subject, seed: int) -> None:
    """Run `check` on up to `max_examples` drawn inputs; raise its failure for the smallest input found.

    Raises AssertionError or StudentError (with the calls that led to it as attribute `calls`), Mismatch when the student's code
    is not deterministic or too slow for its examples, and whatever the check itself raises.
    """
    set_hypothesis_home_dir(tempfile.gettempdir() + "/classroom-hypothesis")
    function: Any = check.function
    original = function.hypothesis.inner_test
    examples = _Examples(original, check.seconds)
    function.hypothesis.inner_test = functools.wraps(original)(lambda *args, **kwargs: examples.run(*args, **kwargs))
    try:
        with with_reporter(lambda _: None):
            hypothesis.seed(seed)(_configured(function, check.max_examples))(subject)
    except _OutOfTime:
        if examples.failure is None:
            raise Mismatch(
                f"It is too slow: only {examples.count} of {check.max_examples} examples ran in {check.seconds:.0f} s."
            ) from None
        raise _with_calls(examples.failure, examples.failing_calls) from None
    except (AssertionError, StudentError) as error:
        raise _with_calls(error, examples.failing_calls) from None
    except Flaky:
        raise _with_calls(
            Mismatch(f"It gives different answers to the same input; one of them failed: {examples.failure}"), examples.failing_calls
        ) from None
    finally:
        function.hypothesis.inner_test = original


def _with_calls(error: BaseException, calls: list[Any]) -> BaseException:
    error.calls = calls  # type: ignore[attr-defined]
    return error
