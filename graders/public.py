"""What a release holds beside the notebook: the public part of the engine, the lab's checks and budgets, and a pyproject.toml.

`ENGINE` is the whole list: a module that isn't in it never reaches a student. A module of the list may import at its top only what
is in the list too, which `public_files` proves, so that a release works on a machine that has nothing else.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import graders
from graders.course import Layout
from graders.problems import UserProblem

# Relative to the package `graders`; a `*` matches within one folder.
ENGINE = (
    "__init__.py",
    "budgets.py",
    "checks.py",
    "cli.py",
    "commands/__init__.py",
    "commands/check.py",
    "commands/shared.py",
    "counterexample.py",
    "course.py",
    "expect.py",
    "grade.py",
    "indicative.py",
    "labs/__init__.py",
    "latency.py",
    "measure.py",
    "notebook.py",
    "notebook_check.py",
    "problems.py",
    "properties.py",
    "report.py",
    "session.py",
    "sides.py",
    "strategies.py",
    "subject.py",
    "submission.py",
    "verdict.py",
    "worker/*.py",
    "yaml_file.py",
)

# What a release needs to run; the same lower bounds as in the course's own pyproject.toml.
REQUIREMENTS = (
    "blake3>=1.0",
    "hypothesis>=6.150",
    "ipython>=9",
    "jinja2>=3.1",
    "jupyterlab>=4.4",
    "matplotlib>=3.10",
    "msgspec>=0.20",
    "nbformat>=5.10",
    "numba>=0.63",
    "numpy>=2.2",
    "pyyaml>=6",
    "rich>=14",
    "typer>=0.20",
)
SECRET_MODULES = frozenset({"hidden", "faults"})

PYPROJECT = """\
[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"

[project]
name = "{{ lab }}"
version = "{{ version }}"
requires-python = ">=3.11"
dependencies = [
{%- for requirement in requirements %}
    {{ requirement | quoted }},
{%- endfor %}
]

[project.scripts]
classroom = "graders.cli:main"

[tool.setuptools]
packages = { find = { include = ["graders*"] } }
"""


class PublicError(UserProblem):
    """A release that would not work or would name what is secret; the message says which file and why."""


def public_files(root: Path, lab: str) -> dict[str, bytes]:
    """Return what the release of `lab` holds beside the notebook and its side files: path relative to the release → content.

    The engine is the running one; the lab's checks and budgets are those of the course at `root`. The same input gives the same bytes.
    Raises PublicError when a listed module is missing or imports one that is not shipped.
    """
    files = {f"graders/{path}": data for path, data in _engine().items()}
    files |= {f"graders/labs/{lab}/{path}": data for path, data in _lab_modules(Layout(root).checks_dir(lab)).items()}
    _prove_importable(files)
    budgets = Layout(root).budgets(lab)
    if budgets.exists():
        files[f"perf_budgets/{lab}.yml"] = _public_budgets(budgets, Layout(root).checks_dir(lab))
    files["pyproject.toml"] = pyproject(lab, _extra_requirements(Layout(root).checks_dir(lab))).encode()
    return dict(sorted(files.items()))


def pyproject(lab: str, extra: tuple[str, ...] = ()) -> str:
    """Return the pyproject.toml of a release; `extra` are requirements of the lab beyond the engine's."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    # Jinja's own `tojson` is made for HTML: it would write > as an escape.
    environment.filters["quoted"] = json.dumps
    template = environment.from_string(PYPROJECT)
    named = {_project(requirement): requirement for requirement in (*REQUIREMENTS, *extra)}
    return template.render(lab=lab, version=graders.__version__, requirements=[named[name] for name in sorted(named)])


def engine_paths() -> list[str]:
    """Return the paths of the public engine modules, relative to the package `graders`, sorted."""
    package = Path(graders.__file__).parent
    found: set[str] = set()
    for pattern in ENGINE:
        matches = [path for path in package.glob(pattern) if path.is_file()]
        if not matches:
            raise PublicError(f"graders/{pattern} is on the list of what a release ships, but there is no such file.")
        found.update(path.relative_to(package).as_posix() for path in matches)
    return sorted(found)


def _engine() -> dict[str, bytes]:
    package = Path(graders.__file__).parent
    return {path: (package / path).read_bytes() for path in engine_paths()}


def _lab_modules(folder: Path) -> dict[str, bytes]:
    """The lab's `__init__` and `checks`, and the modules of its folder that these import; never `hidden` or `faults`."""
    wanted, modules = ["__init__", "checks"], {}
    while wanted:
        name = wanted.pop()
        path = folder / f"{name}.py"
        if f"{name}.py" in modules:
            continue
        if not path.is_file():
            raise PublicError(f"{path}: is missing; a lab needs it to be released.")
        modules[f"{name}.py"] = path.read_bytes()
        for module, line in _imports(ast.parse(modules[f"{name}.py"], str(path)), f"graders.labs.{folder.name}.{name}", every=True):
            first = module.removeprefix(f"graders.labs.{folder.name}.").partition(".")[0]
            if module.split(".")[0] == "reference" or (module.startswith(f"graders.labs.{folder.name}.") and first in SECRET_MODULES):
                raise PublicError(f"{path}:{line}: imports {module}, which is never shipped.")
            if module.startswith(f"graders.labs.{folder.name}.") and (folder / f"{first}.py").is_file():
                wanted.append(first)
    return modules


def _imports(tree: ast.Module, module: str, every: bool) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of what a module imports: all, or only what runs when it is imported.

    `from a import b` yields `a.b`, since b may be a module.
    """
    for node in ast.walk(tree) if every else _at_import(tree.body):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((f"{base}.{name.name}", node.lineno) for name in node.names)


def _at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for block in ("body", "orelse", "finalbody"):
            yield from _at_import(getattr(node, block, []))
        for handler in getattr(node, "handlers", []):
            yield from _at_import(handler.body)


def _prove_importable(files: dict[str, bytes]) -> None:
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files if path.endswith(".py")}
    for path, data in files.items():
        if not path.endswith(".py"):
            continue
        # The name of a package's __init__ ends in a part that a relative import drops, as a module's name does.
        for name, line in _imports(ast.parse(data, path), path.removesuffix(".py").replace("/", "."), every=False):
            if name.split(".")[0] not in ("graders", "reference") or name in modules or _defines(files, name):
                continue
            raise PublicError(f"{path}:{line}: imports {name}, which is not shipped. Add it to ENGINE or import it where it is used.")


def _defines(files: dict[str, bytes], name: str) -> bool:
    """Whether the shipped module `a.b` speaks of the last part of `a.b.c`, which then is one of its names and no missing submodule."""
    module, _, attribute = name.rpartition(".")
    path = module.replace(".", "/")
    data = files.get(f"{path}.py", files.get(f"{path}/__init__.py"))
    return data is not None and (attribute == "*" or re.search(rf"\b{attribute}\b", data.decode()) is not None)


def _public_budgets(path: Path, checks: Path) -> bytes:
    from graders.budgets import load_budgets, public_yaml

    budgets = load_budgets(path)
    for name in _budgets_used(checks / "hidden.py") - _budgets_used(checks / "checks.py"):
        budgets.budgets.pop(name, None)
    return public_yaml(budgets)


def _budgets_used(path: Path) -> set[str]:
    """The names that `@check(budget="name")` asks for in a module."""
    if not path.is_file():
        return set()
    keywords = (node for node in ast.walk(ast.parse(path.read_bytes(), str(path))) if isinstance(node, ast.keyword))
    values = (node.value for node in keywords if node.arg == "budget")
    return {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def _extra_requirements(checks: Path) -> tuple[str, ...]:
    """Read `REQUIRES = [...]` of the lab's `__init__`, without importing it."""
    path = checks / "__init__.py"
    for node in ast.parse(path.read_bytes(), str(path)).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "REQUIRES" for target in targets):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                value = None
            if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
                raise PublicError(f"{path}:{node.lineno}: REQUIRES must be a list of requirements such as ['hnswlib>=0.8'].")
            return tuple(value)
    return ()


def _project(requirement: str) -> str:
    """The project that a requirement names, as pip compares names."""
    name = requirement
    for mark in "<>=!~;[ @":
        name = name.partition(mark)[0]
    return name.strip().lower().replace("_", "-").replace(".", "-")
