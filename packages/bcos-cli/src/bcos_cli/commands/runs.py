"""``bcos runs``: list, show, compare. Imports no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say, say_json, tell
from bcos_core.errors import BcosError

if TYPE_CHECKING:
    from bcos_cli.runs.run import Run

SortBy = Literal["name", "best", "last", "changed"]

runs = typer.Typer(no_args_is_help=True, help="List the runs of a folder; show one, compare several.")
bcos_cli_commands = hookimpl(lambda app: app.add_typer(runs, name="runs"))


@runs.command("list")
def listing(
    folder: Annotated[Path, typer.Argument(help="Folder to search, with all below it.")] = Path("runs"),
    sort: Annotated[SortBy, typer.Option(help="Sort by name; or by best, last or changed, largest first.")] = "name",
    as_json: AsJson = False,
) -> None:
    """List the runs of a folder: state, epochs, accuracy, GridPG. Exit status 1 if one cannot be read."""
    from bcos_cli.runs.run import find_runs, read_run

    rows, broken = [], {}
    for path in find_runs(folder):
        name = str(path.relative_to(folder)) if path != folder else path.name
        try:
            rows.append({"name": name, **_summary(read_run(path))})
        except BcosError as reason:
            broken[name] = str(reason)
    if sort != "name":
        rows.sort(key=lambda row: (row[sort] is not None, row[sort]), reverse=True)
    if as_json:
        say_json(rows + [{"name": name, "error": text} for name, text in broken.items()])
    elif rows:
        _print_runs(rows)
    elif not broken:
        say(f"there are no runs in {folder}")
    for name, text in broken.items():
        tell(f"{name}: {text}")
    if broken:
        raise typer.Exit(1)


@runs.command()
def show(run: Annotated[Path, typer.Argument(help="A run's folder.")], as_json: AsJson = False) -> None:
    """Show a run: the keys its recipe changes, its epochs, its scores."""
    from bcos_cli import console
    from bcos_cli.config.comparison import differences
    from bcos_cli.runs.compare import defaults
    from bcos_cli.runs.run import read_run

    found = read_run(run)
    changed = {key: value for key, (value, _) in differences(found.recipe, defaults()).items() if value is not None}
    if as_json:
        values = {"recipe": changed, "metrics": found.epochs, "scores": found.scores, "versions": found.versions}
        say_json({"name": str(run), **_summary(found), **values})
        return
    console.out.print(f"{run}: {found.model}, {found.state}, {len(found.epochs)} of {found.max_epochs} epochs")
    if found.versions:
        console.out.print(", ".join(f"{name} {version}" for name, version in found.versions.items()), soft_wrap=True)
    if changed:
        console.table("recipe, where it is not the default", ["key", "value"], changed.items(), prose=["value"])
    if found.epochs:
        columns = list(dict.fromkeys(key for line in found.epochs for key in line if key != "step"))
        rows = [[_number(line.get(key)) for key in columns] for line in found.epochs]
        console.table("epochs", columns, rows)
    if found.scores:
        console.table("evaluation", ["score", "value"], [(k, _number(v)) for k, v in found.scores.items()])


@runs.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Draw their learning curves: a .png, .svg or .pdf file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: how their recipes differ, and their scores."""
    from bcos_cli import console
    from bcos_cli.config.output_path import check_writable
    from bcos_cli.runs.compare import SUFFIXES, plot, recipe_rows, score_rows
    from bcos_cli.runs.run import read_run

    if picture is not None:
        if picture.suffix.lower() not in SUFFIXES:
            raise BcosError(f"--plot {picture} must end with {', '.join(SUFFIXES)}")
        check_writable(picture, "--plot")
    found = [read_run(folder) for folder in folders]
    names = console.short_paths(folders)
    recipe, scores = recipe_rows(found), score_rows(found)
    if picture is not None:
        plot(found, names, picture)
    if as_json:
        say_json({"runs": [str(folder) for folder in folders], "recipe": recipe, "scores": scores})
        return
    for title, rows in (("recipe", recipe), ("scores", scores)):
        if rows:
            console.table(title, ["", *names], [(key, *map(_number, cells)) for key, cells in rows.items()])
    if picture is not None:
        console.out.print(f"learning curves {picture}", soft_wrap=True)


def _summary(run: "Run") -> dict[str, Any]:
    return {
        "model": run.model,
        "state": run.state,
        "epochs": len(run.epochs),
        "of": run.max_epochs,
        "measure": run.measure,
        "best": run.best,
        "last": run.last,
        "scored": run.scored,
        "gridpg": run.scores.get("gridpg/bcos"),
        "minutes": run.minutes,
        "changed": run.changed,
    }


def _print_runs(rows: list[dict[str, Any]]) -> None:
    from bcos_cli import console

    columns = ["run", "state", "epochs", "best", "last", "of split", "GridPG", "min", "model"]
    cells = [{**row, "epochs": f"{row['epochs']}/{row['of']}", "minutes": f"{row['minutes']:.1f}"} for row in rows]
    keys = ("name", "state", "epochs", "best", "last", "scored", "gridpg", "minutes", "model")
    console.table("runs", columns, [[_number(row[key]) for key in keys] for row in cells])


def _number(value: Any) -> str:
    """A number with four significant digits; anything else as it is, and a dash for what there is not."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
