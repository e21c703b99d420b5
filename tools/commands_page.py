"""Write docs/reference/commands.md: every command of ``bcos``, from the program itself; a test compares."""

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from bcos_cli.main import build_app

PAGE = Path(__file__).parents[1] / "docs/reference/commands.md"


def page() -> str:
    """The reference of commands, in Markdown."""
    program = typer.main.get_command(build_app())
    context = typer.Context(program, info_name="bcos")
    return str(get_docs_for_click(obj=program, ctx=context, name="bcos", title="Commands"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
