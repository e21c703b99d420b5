"""``bcos recipes``: list recipes and the models they train, show one, compare two. Imports no torch."""

from collections import defaultdict
from typing import Annotated

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say, say_json

Name = Annotated[str, typer.Argument(help="A YAML file, or a recipe or model that bcos recipes lists.")]

recipes = typer.Typer(invoke_without_command=True, help="List training recipes; show one, compare two.")
bcos_cli_commands = hookimpl(lambda app: app.add_typer(recipes, name="recipes"))


@recipes.callback()
def listing(context: typer.Context, as_json: AsJson = False) -> None:
    """List training recipes and the models they train; show one, compare two."""
    if context.invoked_subcommand is not None:
        return
    from bcos_cli import console
    from bcos_cli.plugins import recipes as registered
    from bcos_models import model_specs

    models: dict[str | None, list[str]] = defaultdict(list)
    for model in model_specs():
        models[model.recipe].append(model.name)
    specs = list(registered())
    if as_json:
        say_json([{"name": s.name, "summary": s.summary, "path": str(s.path), "models": models[s.name]} for s in specs])
        return
    console.table("recipes", ["name", "summary"], [(s.name, s.summary) for s in specs], prose=["summary"])
    console.out.print("A model's name is a recipe too. Models, by the recipe that trains them:")
    for spec in specs:
        if models[spec.name]:
            console.out.print(f"· {spec.name}: {', '.join(models[spec.name])}")


@recipes.command()
def show(
    name: Name,
    overrides: Annotated[list[str] | None, typer.Option("-o", "--override", help="key=value; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a recipe as it is used: complete, with what each key means."""
    from bcos_cli.config.commented_yaml import commented_yaml, complete

    values = complete(name, overrides or [])
    if as_json:
        say_json(values)
    else:
        say(commented_yaml(values).removesuffix("\n"))


@recipes.command()
def diff(first: Name, second: Name, as_json: AsJson = False) -> None:
    """Show the keys in which two recipes differ, and both values."""
    from bcos_cli import console
    from bcos_cli.config.commented_yaml import complete
    from bcos_cli.config.comparison import differences

    found = differences(complete(first, []), complete(second, []))
    if as_json:
        say_json([{"key": k, first: a, second: b} for k, (a, b) in found.items()])
        return
    if not found:
        console.out.print("the recipes are the same")
        return
    rows = [["" if cell is None else cell for cell in (key, *values)] for key, values in found.items()]
    console.table("difference", ["key", first, second], rows)
