"""The grader: engine, command line `classroom`, and the checks of each lab in `graders.labs`.

A notebook opens its lab with `check = open_lab("<lab>", globals())`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"


def open_lab(lab: str, namespace: dict[str, Any]) -> Callable[[str], float]:
    """Return the function `check(name)` for a notebook of `lab`.

    `check(name)` runs one check against the functions in `namespace`, shows the result, and returns the points earned
    (a float in [0, points]). It never raises for a mistake in the student's code and never writes to stderr.
    """
    from graders.notebook_check import NotebookChecks

    return NotebookChecks(lab, namespace).check
