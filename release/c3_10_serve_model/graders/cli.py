"""The command line `classroom`: one module in `graders.commands` for each command, imported when it is called."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

import typer
import typer.core
import typer.main

from graders import commands
from graders.problems import UserProblem

EPILOG = "Start with `classroom demo`. Exit codes: 0 done, 1 something needs attention, 2 wrong use or a file that can't be read."


class LazyGroup(typer.core.TyperGroup):
    """Lists the commands that are installed (a student's package has fewer) and imports one only when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        installed = {module.name for module in pkgutil.iter_modules(commands.__path__)}
        return [name for name in commands.SUMMARIES if name in installed]

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"graders.commands.{name}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, help=module.__doc__)(module.run)
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, commands.SUMMARIES[name]) for name in self.list_commands(ctx)])


app: Any = typer.Typer(
    cls=LazyGroup,
    help="Release assignments, grade them, and tell students what their code breaks.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Run the command line; a mistake of the user is one sentence on stderr and exit code 2."""
    try:
        app(prog_name="classroom")
    except KeyboardInterrupt:
        sys.exit(130)
    except UserProblem as problem:
        print(f"classroom: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
