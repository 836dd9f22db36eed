"""The course: what `classroom.yml` says, and where each file of a lab lies."""

from __future__ import annotations

import datetime as dt
import math
import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from msgspec import Meta

from graders.problems import UserProblem
from graders.yaml_file import MOMENT, FieldError, did_you_mean, load

FILE_NAME = "classroom.yml"
SLUG = "^[a-z][a-z0-9_]*$"
DAY_SECONDS = 86_400

Part = Literal["C3", "C4"]
Isolation = Literal["full", "partial", "none"]
Positive = Annotated[float, Meta(gt=0)]


class CourseError(UserProblem):
    """A lab, a folder or a name that the course does not have; the message is a sentence for people."""


class Week(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One week of one part of the course. `number` counts from 1 within the part."""

    course_part: Annotated[Part, Meta(description="the part that the week belongs to")]
    number: Annotated[int, Meta(ge=1, description="counted from 1 within the part")]
    title: Annotated[str, Meta(min_length=1, description="what the week is about")]
    starts: Annotated[dt.date, Meta(description="its Monday")]


class Lab(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One assignment. `released` and `due` carry a time zone once the course is loaded; `minutes` is the expected work."""

    slug: Annotated[str, Meta(description="the lab's name in every path", extra_json_schema={"pattern": SLUG})]
    title: Annotated[str, Meta(min_length=1, description="the name that students read")]
    course_part: Annotated[Part, Meta(description="the part that the lab belongs to")]
    week: Annotated[int, Meta(ge=1, description="the number of its week within the part")]
    released: Annotated[
        dt.datetime, Meta(description="when students get it, in the course's time zone", extra_json_schema={"pattern": MOMENT})
    ]
    due: Annotated[dt.datetime, Meta(description="its deadline, in the course's time zone", extra_json_schema={"pattern": MOMENT})]
    minutes: Annotated[int, Meta(gt=0, description="the expected work, in minutes")]
    weight: Annotated[float, Meta(gt=0, description="its weight in the course grade, relative to the other labs")] = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(SLUG, self.slug):
            raise FieldError(f'must be small letters, digits and "_", a letter first, but it is "{self.slug}".', "slug")
        if not math.isfinite(self.weight):
            raise FieldError("must be a finite number.", "weight")

    def late_seconds(self, submitted: dt.datetime) -> float:
        """How many seconds after the deadline `submitted` is (timezone-aware), 0 when it is in time."""
        return max(0.0, (submitted - self.due).total_seconds())


class LatePolicy(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What lateness costs: nothing within the grace, then a fraction of the points for each day begun, and all after `max_days`."""

    grace_minutes: Annotated[float, Meta(ge=0, description="minutes after each deadline that cost nothing")] = 15
    penalty_per_day: Annotated[float, Meta(ge=0, le=1, description="fraction of the points lost for each day begun")] = 0.1
    max_days: Annotated[int, Meta(ge=0, description="days begun after which a submission earns nothing")] = 5

    def penalty(self, late_seconds: float) -> float:
        """The fraction of the points, 0 to 1, that a submission loses when it comes `late_seconds` after its deadline.

        The grace moves every boundary: with 15 minutes, 24 h 10 min late is still the first day.
        """
        beyond_grace = late_seconds - 60 * self.grace_minutes
        if beyond_grace <= 0:
            return 0.0
        days = math.ceil(beyond_grace / DAY_SECONDS)
        return 1.0 if days > self.max_days else min(1.0, days * self.penalty_per_day)


class Course(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The course as `classroom.yml` describes it.

    Times without an offset are local to `timezone`. Raises FieldError when two fields contradict each other.
    """

    name: Annotated[
        str, Meta(description="the course's short name, used in file and repository names", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    title: Annotated[str, Meta(min_length=1, description="the name that students read")]
    term: Annotated[str, Meta(min_length=1, description="when it is taught, e.g. Spring 2027")]
    timezone: Annotated[str, Meta(description="IANA name of the zone that local times are in, e.g. Europe/Zurich")]
    labs: Annotated[list[Lab], Meta(description="the assignments, in teaching order")]
    weeks: Annotated[list[Week], Meta(description="the calendar; when given, each lab's week must be in it")] = []
    late_policy: Annotated[LatePolicy, Meta(description="what lateness costs")] = msgspec.field(default_factory=LatePolicy)
    isolation: Annotated[Isolation, Meta(description="the sandbox level below which official grading refuses to run")] = "full"

    def __post_init__(self) -> None:
        zone = self._zone()
        for position, lab in enumerate(self.labs):
            lab.released, lab.due = (moment if moment.tzinfo else moment.replace(tzinfo=zone) for moment in (lab.released, lab.due))
            if lab.due <= lab.released:
                problem = f"must come after `released` ({lab.released:%Y-%m-%d %H:%M}), but it is {lab.due:%Y-%m-%d %H:%M}."
                raise FieldError(problem, "labs", position, "due")
        self._check_unique()
        self._check_weeks()

    def _zone(self) -> ZoneInfo:
        try:
            return ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            nearest = did_you_mean(self.timezone, available_timezones())
            problem = f'must be an IANA time zone such as Europe/Zurich, but it is "{self.timezone}".{nearest}'
            raise FieldError(problem, "timezone") from None

    def _check_unique(self) -> None:
        first: dict[str, int] = {}
        for position, lab in enumerate(self.labs):
            if lab.slug in first:
                raise FieldError(f'is "{lab.slug}" again, as in labs[{first[lab.slug]}]. A slug names one lab.', "labs", position, "slug")
            first[lab.slug] = position

    def _check_weeks(self) -> None:
        numbers: dict[str, list[int]] = {}
        for position, week in enumerate(self.weeks):
            of_part = numbers.setdefault(week.course_part, [])
            if week.number in of_part:
                raise FieldError(f"is {week.number} a second time in {week.course_part}.", "weeks", position, "number")
            of_part.append(week.number)
        for position, lab in enumerate(self.labs if self.weeks else []):
            of_part = numbers.get(lab.course_part, [])
            if lab.week not in of_part:
                known = ", ".join(map(str, sorted(of_part))) or "none"
                raise FieldError(f"must be a week of {lab.course_part} ({known}), but it is {lab.week}.", "labs", position, "week")

    def lab(self, slug: str) -> Lab:
        """The lab named `slug`; raise CourseError with the nearest name when there is none."""
        for lab in self.labs:
            if lab.slug == slug:
                return lab
        known = [lab.slug for lab in self.labs]
        raise CourseError(f'There is no lab "{slug}".{did_you_mean(slug, known)} The labs are {", ".join(known) or "none yet"}.')

    def labs_of_week(self, number: int, course_part: Part | None = None) -> list[Lab]:
        """The labs of week `number`, of one part or of both; empty when that week has none."""
        return [lab for lab in self.labs if lab.week == number and course_part in (None, lab.course_part)]


def load_course(root: Path) -> Course:
    """Read `root/classroom.yml`; raise ConfigError with its line and field."""
    return load(root / FILE_NAME, Course)


def find_root(start: Path) -> Path:
    """The nearest folder at or above `start` that holds `classroom.yml`; raise CourseError when there is none."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise CourseError(f"Neither {start} nor a folder above it holds {FILE_NAME}. Change into a course repository and try again.")


def _segment(name: str, what: str) -> str:
    # Students' names come from repositories and rosters: one must not climb out of its folder.
    if not name or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name:
        raise CourseError(f"{name!r} can't be the name of a {what}: it must be one visible path segment.")
    return name


class Layout:
    """Where each file of the course lies. Every path of the repository is spelled here and nowhere else.

    `lab` is a slug and `student` a user name; either raises CourseError when it isn't a single path segment. No path need exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def course_file(self) -> Path:
        """The course's `classroom.yml`."""
        return self.root / FILE_NAME

    @property
    def gradebook(self) -> Path:
        """nbgrader's SQLite gradebook."""
        return self.root / "gradebook.db"

    @property
    def feedback_index(self) -> Path:
        """The TA's page: every student, every lab."""
        return self.root / "feedback" / "index.html"

    def source_dir(self, lab: str) -> Path:
        """The lab as its author writes it, solutions included."""
        return self.root / "source" / _segment(lab, "lab")

    def source_notebook(self, lab: str) -> Path:
        """The notebook with solutions."""
        return self.source_dir(lab) / f"{lab}.ipynb"

    def baseline(self, lab: str) -> Path:
        """The naive implementation that budgets are measured against."""
        return self.source_dir(lab) / "baseline.py"

    def release_dir(self, lab: str) -> Path:
        """What students get."""
        return self.root / "release" / _segment(lab, "lab")

    def release_notebook(self, lab: str) -> Path:
        """The stripped notebook."""
        return self.release_dir(lab) / f"{lab}.ipynb"

    def submitted_dir(self, student: str, lab: str) -> Path:
        """What a student handed in."""
        return self.root / "submitted" / _segment(student, "student") / _segment(lab, "lab")

    def submitted_notebook(self, student: str, lab: str) -> Path:
        """The notebook that a student handed in."""
        return self.submitted_dir(student, lab) / f"{lab}.ipynb"

    def autograded_dir(self, student: str, lab: str) -> Path:
        """What grading made of a submission."""
        return self.root / "autograded" / _segment(student, "student") / _segment(lab, "lab")

    def autograded_notebook(self, student: str, lab: str) -> Path:
        """The submission's notebook with its outputs, as nbgrader's Formgrader reads it."""
        return self.autograded_dir(student, lab) / f"{lab}.ipynb"

    def report(self, student: str, lab: str) -> Path:
        """The signed record of a graded submission."""
        return self.autograded_dir(student, lab) / "report.json"

    def feedback_dir(self, student: str, lab: str) -> Path:
        """What the student reads."""
        return self.root / "feedback" / _segment(student, "student") / _segment(lab, "lab")

    def feedback_page(self, student: str, lab: str) -> Path:
        """The student's page for one lab."""
        return self.feedback_dir(student, lab) / f"{lab}.html"

    def budgets(self, lab: str) -> Path:
        """The lab's performance budgets."""
        return self.root / "perf_budgets" / f"{_segment(lab, 'lab')}.yml"

    def checks_dir(self, lab: str) -> Path:
        """The lab's checks and, in `faults/`, its planted faults."""
        return self.root / "graders" / "labs" / _segment(lab, "lab")
