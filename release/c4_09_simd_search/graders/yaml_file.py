"""Read a YAML file into a msgspec Struct, and say what is wrong with it by file, line and field.

YAML is read by the 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema), the one that editors check against: `1e-3` is a
number, `no` is text, there is no `<<` merge. Plain dates with a time, `2027-02-08 23:59`, become datetimes; nothing is executed.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from graders.problems import UserProblem

T = TypeVar("T")
Step = str | int

MOMENT = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?$"


class ConfigError(UserProblem):
    """A file that can't be used. Its text reads `path:line: field problem`, one sentence for people.

    `line` counts from 1 and is None when the file can't be opened; `field` is a path such as `labs[2].due`, empty for the whole file.
    """

    def __init__(self, path: Path, line: int | None, field: str, problem: str) -> None:
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {field or 'the file'} {problem}")
        self.path, self.line, self.field, self.problem = path, line, field, problem


class FieldError(ValueError):
    """A field that contradicts another one. A Struct raises it in `__post_init__`; `load` adds the file and the line.

    `steps` lead from that Struct to the field: `FieldError("must come after `released`.", "labs", 2, "due")`.
    """

    def __init__(self, problem: str, *steps: Step) -> None:
        super().__init__(f"{field_name(steps)} {problem}".strip())
        self.problem, self.steps = problem, steps


def field_name(steps: Iterable[Step]) -> str:
    """`("labs", 2, "due")` as `labs[2].due`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean "due"?` with its leading space, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


def load(path: Path, type: type[T]) -> T:
    """Read the YAML file `path` as the Struct `type`; raise ConfigError at the first thing that `type` does not allow."""
    return Document(path).convert(type)


class Document:
    """One YAML file: its values in `data`, and the line on which each of them stands."""

    def __init__(self, path: Path) -> None:
        """Read and parse `path`; raise ConfigError when it is missing, empty, not UTF-8, not YAML or has a key twice."""
        self.path = path
        text = _read_text(path)
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                raise ConfigError(path, 1, "", "is empty.")
            self.root = node
            self._refuse_duplicates(node, (), frozenset())
            self.data: Any = self._construct(loader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            problem = f"holds the control character U+{error.character:04X}, which YAML does not allow."
            raise ConfigError(path, line, "", problem) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise ConfigError(path, mark.line + 1 if mark else 1, "", f"is not valid YAML: {error.problem}.") from None
        except RecursionError:
            raise ConfigError(path, 1, "", "is nested too deeply.") from None

    def convert(self, type: type[T]) -> T:
        """The values as `type`. Unknown fields are refused at every depth, also in Structs that would ignore them."""
        info = inspect.type_info(type)
        for steps, known in _unknown_fields(info, self.data, ()):
            name = str(steps[-1])
            raise self.error(f"is not a known field.{did_you_mean(name, known)} Allowed here: {', '.join(known)}.", *steps)
        try:
            return msgspec.convert(self.data, type)
        except msgspec.ValidationError as error:
            steps = _locate(self.data, type, error)
            if isinstance(error.__cause__, FieldError):
                raise self.error(error.__cause__.problem, *steps, *error.__cause__.steps) from None
            raise self._explain(info, str(error), steps) from None

    def error(self, problem: str, *steps: Step) -> ConfigError:
        """A ConfigError about the field that `steps` lead to; its line is that of the deepest step that the file holds."""
        return ConfigError(self.path, self.line(*steps), field_name(steps), problem)

    def line(self, *steps: Step) -> int:
        """The line, from 1, of the key or list item that `steps` lead to."""
        node, line = self.root, self.root.start_mark.line
        for step in steps:
            if isinstance(node, yaml.MappingNode):
                found = next(((key.start_mark.line, value) for key, value in node.value if key.value == str(step)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                found = (node.value[step].start_mark.line, node.value[step])
            else:
                found = None
            if found is None:
                break
            line, node = found
        return line + 1

    def _construct(self, loader: _Loader) -> Any:
        try:
            return loader.construct_document(self.root)
        except (ValueError, TypeError, LookupError, AttributeError):
            # What PyYAML lets through for a tag that its value doesn't fit, such as `!!bool perhaps`.
            raise ConfigError(self.path, self.line(), "", "has a value that doesn't fit its `!!` tag.") from None

    def _refuse_duplicates(self, node: yaml.Node, steps: tuple[Step, ...], above: frozenset[int]) -> None:
        # An alias can make a node its own descendant; such a file could be walked for ever.
        if id(node) in above:
            raise ConfigError(self.path, node.start_mark.line + 1, field_name(steps), "contains itself through an alias.")
        above |= {id(node)}
        if isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self._refuse_duplicates(item, (*steps, position), above)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                # A key that is itself a list or mapping is refused when the values are constructed.
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line, below = key.start_mark.line + 1, (*steps, key.value)
                if key.value in lines:
                    raise ConfigError(self.path, line, field_name(below), f"stands twice, first on line {lines[key.value]}. Keep one.")
                lines[key.value] = line
                self._refuse_duplicates(value, below, above)

    def _explain(self, info: inspect.Type, message: str, steps: tuple[Step, ...]) -> ConfigError:
        """msgspec's `message` as a sentence that says what is allowed and what was found."""
        text = message.partition(" - at `")[0]
        if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
            steps = (*steps, missing[1])
            description = _description(_type_at(info, steps))
            return self.error(f"is missing{f' ({description})' if description else ''}.", *steps)
        found = _shown(_value_at(self.data, steps))
        if " - at `key` in " in message:
            return self.error("has a key that is not text: put it in quotes.", *steps)
        if text.startswith("Invalid enum value"):
            allowed = _choices(_type_at(info, steps))
            nearest = did_you_mean(str(_value_at(self.data, steps)), allowed)
            return self.error(f"must be one of {', '.join(allowed)}, but it is {found}.{nearest}", *steps)
        if text == "Invalid RFC3339 encoded datetime":
            return self.error(f"must be a date and time such as 2027-02-08 23:59, without quotes, but it is {found}.", *steps)
        if text == "Invalid RFC3339 encoded date":
            return self.error(f"must be a date such as 2027-02-08, but it is {found}.", *steps)
        if expected := re.match(r"Expected `([^`]*)`(.*)", text):
            kinds = " or ".join(_KINDS.get(kind, kind) for kind in expected[1].split(" | "))
            bound = "" if expected[2].startswith(", got") else expected[2]
            return self.error(f"must be {kinds}{bound}, but it is {found}.", *steps)
        return self.error(f"can't be used: {text}.", *steps)


_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
    "datetime": "a date and time such as 2027-02-08 23:59",
    "date": "a date such as 2027-02-08",
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain scalars in place of 1.1's."""


_Loader.yaml_implicit_resolvers = {}


def _moment(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> dt.datetime | str:
    # A 31st of June stays text, so that the field's type refuses it with the field's name.
    try:
        return dt.datetime.fromisoformat(node.value)
    except ValueError:
        return str(node.value)


_DIGITS = list("-+0123456789")
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]{1,18}$", _DIGITS),
    ("tag:yaml.org,2002:float", r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", [*_DIGITS, "."]),
    ("!moment", MOMENT, _DIGITS),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
_Loader.add_constructor("!moment", _moment)
# SafeLoader reads 010 as eight.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(path, None, "", "does not exist.") from None
    except OSError as error:
        raise ConfigError(path, None, "", f"can't be read ({error.strerror}).") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, line, "", f"is not UTF-8 text (byte 0x{data[error.start]:02x}).") from None


def _members(info: inspect.Type) -> Iterator[inspect.Type]:
    """`info` without its annotations, and each alternative of a union."""
    if isinstance(info, inspect.Metadata):
        yield from _members(info.type)
    elif isinstance(info, inspect.UnionType):
        for member in info.types:
            yield from _members(member)
    else:
        yield info


def _below(info: inspect.Type, step: Step) -> inspect.Type | None:
    for member in _members(info):
        if isinstance(member, inspect.StructType):
            return next((field.type for field in member.fields if field.encode_name == step), None)
        if isinstance(member, inspect.DictType):
            return member.value_type
        if isinstance(member, inspect.ListType):
            return member.item_type
    return None


def _type_at(info: inspect.Type | None, steps: Iterable[Step]) -> inspect.Type | None:
    for step in steps:
        info = _below(info, step) if info is not None else None
    return info


def _value_at(value: Any, steps: Iterable[Step]) -> Any:
    for step in steps:
        value = value[step]
    return value


def _unknown_fields(info: inspect.Type, value: Any, steps: tuple[Step, ...]) -> Iterator[tuple[tuple[Step, ...], list[str]]]:
    """Each field that its Struct does not have, with the names that it has."""
    if not isinstance(value, dict | list):
        return
    struct = next((member for member in _members(info) if isinstance(member, inspect.StructType)), None)
    known = [field.encode_name for field in struct.fields] if struct else []
    for step, item in value.items() if isinstance(value, dict) else enumerate(value):
        if struct and isinstance(value, dict) and step not in known:
            yield (*steps, step), known
        elif (below := _below(info, step)) is not None:
            yield from _unknown_fields(below, item, (*steps, step))


def _locate(data: Any, type: Any, error: msgspec.ValidationError) -> tuple[Step, ...]:
    """The steps of `error`'s path. msgspec writes `[...]` for any key of a dict, so each key is tried alone for the same error."""
    path = re.search(r" in `\$(.*)`$| - at `\$(.*)`$", str(error))
    steps: list[Step] = []
    for name, position, anykey in re.findall(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])", (path[1] or path[2] or "") if path else ""):
        if anykey:
            mapping = _value_at(data, steps)
            alone = ((key, _with(data, steps, {key: value})) for key, value in mapping.items())
            found = next(((key, rest) for key, rest in alone if _fails_alike(rest, type, str(error))), None)
            if found is None:
                break
            steps.append(found[0])
            data = found[1]
        else:
            steps.append(name or int(position))
    return tuple(steps)


def _fails_alike(data: Any, type: Any, message: str) -> bool:
    try:
        msgspec.convert(data, type)
    except msgspec.ValidationError as error:
        return str(error) == message
    return False


def _with(data: Any, steps: list[Step], replacement: Any) -> Any:
    """A copy of `data` in which `replacement` stands where `steps` lead."""
    if not steps:
        return replacement
    copy = data.copy()
    copy[steps[0]] = _with(data[steps[0]], steps[1:], replacement)
    return copy


def _choices(info: inspect.Type | None) -> list[str]:
    members = _members(info) if info is not None else ()
    return [str(value) for member in members if isinstance(member, inspect.LiteralType) for value in member.values]


def _description(info: inspect.Type | None) -> str:
    return (info.extra_json_schema or {}).get("description", "") if isinstance(info, inspect.Metadata) else ""


def _shown(value: Any) -> str:
    names = ((bool, "true or false"), (dict, "a mapping"), (list, "a list"), (str, "text"), (dt.datetime, "a date and time"))
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    kind = next((name for type, name in names if isinstance(value, type)), "")
    text = "" if isinstance(value, dict | list) else str(value) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{kind} {text[:60]}".strip()


def schema(type: Any, title: str) -> bytes:
    """The JSON Schema (draft 2020-12) of the YAML files that `load(path, type)` accepts, as indented JSON."""
    document = msgspec.json.schema(type)
    for definition in document["$defs"].values():
        definition["additionalProperties"] = False
        # An editor shows it while one types: the first paragraph is enough.
        if "description" in definition:
            definition["description"] = " ".join(definition["description"].partition("\n\n")[0].split())
        for field in definition["properties"].values():
            # Local times are allowed, `date-time` demands an offset; the pattern says it in full.
            if "pattern" in field and field.get("format") == "date-time":
                del field["format"]
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **document}
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write `classroom.schema.json` and `perf_budget.schema.json` into `folder`; return the paths."""
    from graders.budgets import LabBudgets
    from graders.course import Course
    from graders.report import write_atomically

    files = {
        folder / "classroom.schema.json": schema(Course, "classroom.yml: the course and its calendar"),
        folder / "perf_budget.schema.json": schema(LabBudgets, "perf_budgets/<lab>.yml: one lab's performance budgets"),
    }
    for path, data in files.items():
        write_atomically(path, data)
    return list(files)
