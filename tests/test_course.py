"""`classroom.yml`: what is refused and with which sentence, what lateness costs, and where files lie."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graders.course import Course, CourseError, LatePolicy, Layout, find_root, load_course
from graders.yaml_file import ConfigError, write_schemas

REPOSITORY = Path(__file__).resolve().parent.parent

GOOD = """\
name: toy-course
title: A toy course
term: Spring 2027
timezone: Europe/Zurich
weeks:
  - {course_part: C3, number: 1, title: First, starts: 2027-01-11}
labs:
  - slug: toy_one
    title: One
    course_part: C3
    week: 1
    released: 2027-01-11 12:00
    due: 2027-01-24 23:59
    weight: 1.0
    minutes: 60
  - slug: toy_two
    title: Two
    course_part: C3
    week: 1
    released: 2027-01-11T12:00:00Z
    due: 2027-01-24T23:59:00+05:30
    minutes: 90
late_policy: {grace_minutes: 15, penalty_per_day: 0.1, max_days: 5}
isolation: full
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "classroom.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sentence(folder: Path, text: str | bytes) -> str:
    """What is said about a `classroom.yml` that holds `text`, without the folder's name."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_course(folder)
    return str(caught.value).replace(f"{path}", "classroom.yml")


def test_a_course_is_read_with_its_times_in_its_zone(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    course = load_course(tmp_path)
    one, two = course.labs
    assert one.due.isoformat() == "2027-01-24T23:59:00+01:00"
    assert two.released == dt.datetime(2027, 1, 11, 12, tzinfo=dt.UTC)
    assert two.due.utcoffset() == dt.timedelta(hours=5, minutes=30)
    assert (one.weight, two.weight, two.minutes) == (1.0, 1.0, 90)
    assert course.isolation == "full"


def test_summer_time_moves_the_deadline_with_the_zone(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("due: 2027-01-24 23:59", "due: 2027-03-28 23:59"))
    assert load_course(tmp_path).lab("toy_one").due.isoformat() == "2027-03-28T23:59:00+02:00"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "    due: 2027-01-24 23:59",
            "    duee: 2027-01-24 23:59",
            (
                'classroom.yml:13: labs[0].duee is not a known field. Did you mean "due"? '
                "Allowed here: slug, title, course_part, week, released, due, minutes, weight."
            ),
        ),
        ("weight: 1.0", "weight: heavy", 'classroom.yml:14: labs[0].weight must be a number, but it is text "heavy".'),
        ("weight: 1.0", "weight: -1", "classroom.yml:14: labs[0].weight must be a number > 0.0, but it is -1."),
        ("weight: 1.0", "weight: 1e999", "classroom.yml:14: labs[0].weight must be a finite number."),
        ("minutes: 90", "minutes: true", "classroom.yml:22: labs[1].minutes must be a whole number, but it is true."),
        ("title: Two", "title:", "classroom.yml:17: labs[1].title must be text, but it is empty."),
        ("    title: Two\n", "", "classroom.yml:16: labs[1].title is missing (the name that students read)."),
        (
            "isolation: full",
            "isolation: ful",
            'classroom.yml:24: isolation must be one of full, none, partial, but it is text "ful". Did you mean "full"?',
        ),
        (
            "    minutes: 60",
            "    minutes: 60\n    weight: 2",
            "classroom.yml:16: labs[0].weight stands twice, first on line 14. Keep one.",
        ),
        (
            "slug: toy_two",
            "slug: toy_one",
            'classroom.yml:16: labs[1].slug is "toy_one" again, as in labs[0]. A slug names one lab.',
        ),
        (
            "slug: toy_two",
            "slug: Toy-2",
            'classroom.yml:16: labs[1].slug must be small letters, digits and "_", a letter first, but it is "Toy-2".',
        ),
        (
            "due: 2027-01-24 23:59",
            "due: 2027-01-04 23:59",
            "classroom.yml:13: labs[0].due must come after `released` (2027-01-11 12:00), but it is 2027-01-04 23:59.",
        ),
        (
            "due: 2027-01-24 23:59",
            "due: 2027-01-34 23:59",
            'classroom.yml:13: labs[0].due must be a date and time such as 2027-02-08 23:59, without quotes, but it is text "2027-01-34 23:59".',
        ),
        (
            "starts: 2027-01-11",
            "starts: Monday",
            'classroom.yml:6: weeks[0].starts must be a date such as 2027-02-08, but it is text "Monday".',
        ),
        (
            "    week: 1\n    released: 2027-01-11T",
            "    week: 2\n    released: 2027-01-11T",
            "classroom.yml:19: labs[1].week must be a week of C3 (1), but it is 2.",
        ),
        (
            "Europe/Zurich",
            "Europe/Zürich",
            (
                'classroom.yml:4: timezone must be an IANA time zone such as Europe/Zurich, but it is "Europe/Zürich". '
                'Did you mean "Europe/Zurich"?'
            ),
        ),
        (
            "penalty_per_day: 0.1",
            "penalty_per_day: 10",
            "classroom.yml:23: late_policy.penalty_per_day must be a number <= 1.0, but it is 10.",
        ),
        ("name: toy-course", "name: [toy", "classroom.yml:2: the file is not valid YAML: expected ',' or ']', but got ':'."),
        ("name: toy-course", "name: !!python/name:os.system", "classroom.yml:1: the file is not valid YAML: "),
        ("name: toy-course", "? [a, b]\n: 1", "classroom.yml:1: the file is not valid YAML: found unhashable key."),
        ("minutes: 60", "minutes: !!bool perhaps", "classroom.yml:1: the file has a value that doesn't fit its `!!` tag."),
        ("weight: 1.0", f"weight: {'9' * 5000}", "classroom.yml:14: labs[0].weight must be a finite number."),
        ("late_policy: {", "late_policy: &a {again: *a, ", "classroom.yml:23: late_policy.again contains itself through an alias."),
    ],
)
def test_a_mistake_is_named_by_line_and_field(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1
    said = sentence(tmp_path, GOOD.replace(old, new))
    assert said == expected or (expected.endswith(": ") and said.startswith(expected))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "classroom.yml:1: the file is empty."),
        ("# only a comment\n", "classroom.yml:1: the file is empty."),
        (b"name: toy\ntitle: caf\xe9\n", "classroom.yml:2: the file is not UTF-8 text (byte 0xe9)."),
        (b"name: toy\n\x00\x01", "classroom.yml:2: the file holds the control character U+0000, which YAML does not allow."),
        ("- a list\n", "classroom.yml:1: the file must be a mapping, but it is a list."),
        ("[" * 5000, "classroom.yml:1: the file is nested too deeply."),
        ("a: 1\n---\nb: 2\n", "classroom.yml:2: the file is not valid YAML: but found another document."),
        (
            b"\xef\xbb\xbf# from an editor that writes a byte order mark\nname: toy\n",
            "classroom.yml:2: title is missing (the name that students read).",
        ),
    ],
)
def test_a_file_that_is_no_course_is_refused(tmp_path: Path, content: str | bytes, expected: str) -> None:
    assert sentence(tmp_path, content) == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_course(tmp_path)
    assert str(caught.value) == f"{tmp_path}/classroom.yml: the file does not exist."


@given(st.binary(max_size=200) | st.text("a01:-[]{}&*!|>'\"#%, \n\t", max_size=60).map(str.encode))
def test_garbage_is_refused_with_a_sentence_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    write(folder, content)
    with pytest.raises(ConfigError):
        load_course(folder)


def test_an_unknown_lab_brings_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(CourseError) as caught:
        load_course(tmp_path).lab("toy_tow")
    assert str(caught.value) == 'There is no lab "toy_tow". Did you mean "toy_two"? The labs are toy_one, toy_two.'


def test_labs_are_found_by_week_and_part(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    course = load_course(tmp_path)
    assert [lab.slug for lab in course.labs_of_week(1)] == ["toy_one", "toy_two"]
    assert course.labs_of_week(1, "C4") == course.labs_of_week(2) == []


@pytest.mark.parametrize(
    ("late_seconds", "fraction"),
    [(-5, 0.0), (0, 0.0), (900, 0.0), (901, 0.1), (86_400 + 900, 0.1), (86_400 + 901, 0.2), (5 * 86_400, 0.5), (5 * 86_400 + 901, 1.0)],
)
def test_lateness_costs_a_tenth_a_day_after_the_grace(late_seconds: float, fraction: float) -> None:
    assert LatePolicy(grace_minutes=15, penalty_per_day=0.1, max_days=5).penalty(late_seconds) == pytest.approx(fraction)


def test_the_penalty_never_exceeds_all_points() -> None:
    assert LatePolicy(grace_minutes=0, penalty_per_day=0.4, max_days=9).penalty(4 * 86_400) == 1.0


def test_lateness_is_counted_from_the_deadline_in_any_zone(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    lab = load_course(tmp_path).lab("toy_one")
    assert lab.late_seconds(dt.datetime(2027, 1, 24, 22, 59, 30, tzinfo=dt.UTC)) == 30
    assert lab.late_seconds(dt.datetime(2027, 1, 24, 22, 0, tzinfo=dt.UTC)) == 0


def test_the_root_is_found_from_any_folder_below_it(tmp_path: Path) -> None:
    below = tmp_path / "course" / "source" / "toy_one"
    below.mkdir(parents=True)
    write(tmp_path / "course", GOOD)
    assert find_root(below) == find_root(tmp_path / "course") == (tmp_path / "course").resolve()


def test_a_folder_outside_a_course_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CourseError) as caught:
        find_root(tmp_path)
    assert str(caught.value) == (
        f"Neither {tmp_path} nor a folder above it holds classroom.yml. Change into a course repository and try again."
    )


def test_every_path_of_the_repository(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    paths = [
        layout.course_file,
        layout.gradebook,
        layout.feedback_index,
        layout.source_notebook("toy"),
        layout.baseline("toy"),
        layout.release_notebook("toy"),
        layout.submitted_notebook("ada", "toy"),
        layout.autograded_notebook("ada", "toy"),
        layout.report("ada", "toy"),
        layout.feedback_page("ada", "toy"),
        layout.budgets("toy"),
        layout.checks_dir("toy"),
    ]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "classroom.yml",
        "gradebook.db",
        "feedback/index.html",
        "source/toy/toy.ipynb",
        "source/toy/baseline.py",
        "release/toy/toy.ipynb",
        "submitted/ada/toy/toy.ipynb",
        "autograded/ada/toy/toy.ipynb",
        "autograded/ada/toy/report.json",
        "feedback/ada/toy/toy.html",
        "perf_budgets/toy.yml",
        "graders/labs/toy",
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "../ada", "a/b", "a\\b", ".ssh", "a\nb", "a\0b"])
def test_no_name_leaves_its_folder(tmp_path: Path, name: str) -> None:
    layout = Layout(tmp_path)
    for path in (
        lambda: layout.submitted_notebook(name, "toy"),
        lambda: layout.report("ada", name),
        lambda: layout.feedback_page(name, "toy"),
        lambda: layout.budgets(name),
    ):
        with pytest.raises(CourseError, match="must be one visible path segment"):
            path()


def test_the_committed_schemas_are_what_the_code_yields(tmp_path: Path) -> None:
    for written in write_schemas(tmp_path):
        committed = REPOSITORY / "docs" / "schemas" / written.name
        assert committed.read_bytes() == written.read_bytes(), f"docs/schemas/{written.name} is stale: write_schemas(Path('docs/schemas'))"


def test_the_course_is_valid_by_its_schema_and_by_the_code() -> None:
    path = REPOSITORY / "classroom.yml"
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=docs/schemas/classroom.schema.json"
    schema = json.loads((REPOSITORY / "docs" / "schemas" / "classroom.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = yaml.load(path.read_text(), Loader=_JsonLoader)
    assert list(validator.iter_errors(document)) == []
    del document["labs"][0]["due"]
    document["labs"][1]["due"] = "tomorrow"
    document["isolaton"] = "full"
    assert len(list(validator.iter_errors(document))) == 3

    course = load_course(REPOSITORY)
    assert isinstance(course, Course)
    assert {lab.course_part for lab in course.labs} == {"C3", "C4"}
    for lab in course.labs:
        week = next(week for week in course.weeks if (week.course_part, week.number) == (lab.course_part, lab.week))
        assert lab.released.date() >= week.starts
        assert lab.slug.startswith(lab.course_part.lower())
    assert all(week.starts.isoweekday() == 1 for week in course.weeks)


class _JsonLoader(yaml.SafeLoader):
    """YAML as an editor's JSON Schema check sees it: dates are text."""


_JsonLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
