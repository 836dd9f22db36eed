"""Checks and properties: outcomes, shrunk counterexamples, whose fault a failure is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders import expect
from graders.checks import Check, GraderFault, check, in_order, run_check
from graders.report import CheckResult
from graders.strategies import matrices, sizes, vectors
from graders.subject import LocalTransport, Subject


@check
@given(numbers=st.lists(st.integers(0, 1000), max_size=20))
def total_is_right(lab: Any, numbers: list[int]) -> None:
    """`total(numbers)` is their sum."""
    expect.equal(lab.total(numbers), sum(numbers))


@check
@given(q=vectors(sizes(largest=9)), data=st.data())
def dot_is_right(lab: Any, q: np.ndarray, data: Any) -> None:
    """`dot(q, X)` is the matrix-vector product."""
    X = data.draw(matrices(3, len(q)))
    expect.close(lab.dot(q, X), X.astype(np.float64) @ q, rtol=1e-4, atol=1e-2)


def local(**functions: Any) -> Subject:
    return Subject(LocalTransport(dict(functions)))


def run(each: Check, subject: Subject, seed: int = 1) -> CheckResult:
    return run_check(each, subject, seed=seed, max_points=3.0)


def test_a_right_answer_earns_its_points() -> None:
    result = run(total_is_right, local(total=sum))
    assert (result.outcome, result.points, result.kind) == ("pass", 3.0, "property")


def test_the_counterexample_is_the_smallest_and_can_be_pasted() -> None:
    result = run(total_is_right, local(total=lambda numbers: sum(numbers) if sum(numbers) < 50 else 50))
    assert (result.outcome, result.points) == ("fail", 0.0)
    assert result.counterexample is not None
    assert result.counterexample.call == "total([51])"
    assert (result.counterexample.expected, result.counterexample.actual) == ("51", "50")


def test_arrays_are_shown_as_code_that_runs() -> None:
    result = run(dot_is_right, local(dot=lambda q, X: np.zeros(len(X), np.float32)))
    example = result.counterexample
    assert example is not None and example.expected is not None
    seen = eval(example.call, {"np": np, "dot": lambda q, X: (q, X)})
    assert seen[0].dtype == np.float32 and seen[1].shape == (3, len(seen[0]))


def test_what_the_student_raises_is_a_fail_with_its_message() -> None:
    def total(numbers: list[int]) -> int:
        raise KeyError("no such key")

    result = run(total_is_right, local(total=total))
    assert result.outcome == "fail" and "KeyError" in result.message and result.counterexample is not None
    assert result.counterexample.call == "total([])"


def test_a_missing_function_is_named() -> None:
    assert "`total` is not defined in the notebook" in run(total_is_right, local()).message


def test_an_answer_that_changes_is_called_so() -> None:
    answers = iter([0] * 3 + [1] + [0] * 10_000)
    result = run(total_is_right, local(total=lambda numbers: sum(numbers) + next(answers)))
    assert result.outcome == "fail" and "different answers to the same input" in result.message


def test_a_slow_answer_ends_with_a_sentence(worker_of: Callable[..., Subject]) -> None:
    import dataclasses

    quick = dataclasses.replace(total_is_right, seconds=0.5)
    lab = worker_of("import time\ndef total(numbers):\n    time.sleep(0.1)\n    return sum(numbers)")
    result = run(quick, lab)
    assert result.outcome == "fail" and "too slow" in result.message


def test_a_death_ends_the_check_at_once(worker_of: Callable[..., Subject]) -> None:
    lab = worker_of("import os\ndef total(numbers):\n    if len(numbers) > 1: os._exit(0)\n    return sum(numbers)")
    result = run(total_is_right, lab)
    assert result.outcome == "fail" and "exit status 0" in result.message and not lab.is_alive()


@pytest.mark.parametrize("value", [None, "15", [15], {"a": 1}, np.zeros(3), np.array(15.5), float("nan"), True])
def test_values_of_the_wrong_type_fail_and_break_nothing(value: Any) -> None:
    assert run(total_is_right, local(total=lambda numbers: value)).outcome == "fail"
    assert run(dot_is_right, local(dot=lambda q, X: value)).outcome == "fail"


def test_a_check_that_breaks_is_not_taken_for_a_fail() -> None:
    @check
    def careless(lab: Any) -> None:
        """Uses what it was given without looking."""
        lab.f().undefined_attribute  # noqa: B018

    with pytest.raises(GraderFault):
        run(careless, local(f=lambda: 3))


def test_the_same_seed_draws_the_same_inputs() -> None:
    def drawn(seed: int) -> list[Any]:
        inputs: list[Any] = []
        run(total_is_right, local(total=lambda numbers: inputs.append(numbers) or sum(numbers)), seed)
        return inputs

    assert drawn(5) == drawn(5) != drawn(6)


def test_a_check_needs_a_sentence() -> None:
    with pytest.raises(TypeError, match="needs a docstring"):
        check(lambda lab: None)


def test_prerequisites_come_first() -> None:
    def named(name: str, *after: str) -> Check:
        return Check(name, "sentence", lambda lab: None, after=after)

    order = [each.name for each in in_order({"c": named("c", "a"), "b": named("b", "c"), "a": named("a")})]
    assert order.index("a") < order.index("c") < order.index("b")


def test_raises_demands_the_kind() -> None:
    lab = local(f=lambda: {}["x"], g=lambda: 1)
    with expect.raises("KeyError"):
        lab.f()
    with pytest.raises(expect.Mismatch, match="Expected a ValueError, got a KeyError"), expect.raises("ValueError"):
        lab.f()
    with pytest.raises(expect.Mismatch, match="nothing was raised"), expect.raises("ValueError"):
        lab.g()


def test_local_and_remote_subjects_see_the_same(worker_of: Callable[..., Subject]) -> None:
    code = "import numpy as np\ndef f(a, b=(1, 2)): return {'a': a * 2, 'b': b, 'c': np.float32(3)}\nclass Box:\n    def __len__(self): return 4\ndef box(): return Box()"
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    for lab in (Subject(LocalTransport(namespace)), worker_of(code)):
        answer = lab.f(np.arange(2), b=(3, 4))
        assert answer["b"] == [3, 4] and type(answer["c"]) is np.float32 and answer["a"].tolist() == [0, 2]
        assert len(lab.box()) == 4 and repr(lab.box()) == "<Box>"
