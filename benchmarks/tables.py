"""What was measured, as tables of ratios for the documents. Minima of runs that were taken in turns."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import COMPILED, EAGER, EXPLAINING, FOLDED, INFERENCE, STEP
from benchmarks.networks import OURS, PLAIN, REFERENCE

Document = dict[str, Any]


def _seconds(result: Document, what: str, side: str, kind: str, images: int | None = None) -> float | None:
    for row in result["times"]:
        if (row["what"], row["side"], row["kind"]) == (what, side, kind) and images in (None, row["images"]):
            return float(min(row["wall"]))
    return None


def _ratio(result: Document, what: str, side: str, kind: str, images: int | None = None) -> str:
    """Of a side to the plain network of the same kind, compiled or not."""
    own = _seconds(result, what, side, kind, images)
    plain = _seconds(result, what, PLAIN, COMPILED if kind == COMPILED else EAGER, images)
    return "" if own is None or plain is None else f"{own / plain:.2f}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"


def _memory(result: Document) -> list[str]:
    peaks = {row["side"]: row["MiB"] for row in result["memory"]}
    plain = peaks.get(PLAIN)
    ratios = [f"{peaks[side] / plain:.2f}" if plain and side in peaks else "" for side in (OURS, REFERENCE)]
    return [f"{plain:,.0f}" if plain else "", *ratios]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *map(list, rows)))


def training(results: list[Document]) -> str:
    head = ["network", "batch", "plain, ms", "ours", "reference", "plain compiled, ms", "ours compiled"]
    head += ["memory plain, MiB", "ours", "reference"]
    return _table(
        head,
        (
            [
                f"`{r['network']}`",
                str(r["batch"]),
                _ms(_seconds(r, STEP, PLAIN, EAGER)),
                _ratio(r, STEP, OURS, EAGER),
                _ratio(r, STEP, REFERENCE, EAGER),
                _ms(_seconds(r, STEP, PLAIN, COMPILED)),
                _ratio(r, STEP, OURS, COMPILED),
                *_memory(r),
            ]
            for r in results
        ),
    )


def inference(results: list[Document]) -> str:
    head = ["network", "batch", "plain, ms", "ours folded", "ours as it trains", "reference"]
    return _table(
        [*head, "plain compiled, ms", "ours folded, compiled"],
        (
            [
                f"`{r['network']}`",
                str(r["batch"]),
                _ms(_seconds(r, INFERENCE, PLAIN, EAGER)),
                _ratio(r, INFERENCE, OURS, FOLDED),
                _ratio(r, INFERENCE, OURS, EAGER),
                _ratio(r, INFERENCE, REFERENCE, EAGER),
                _ms(_seconds(r, INFERENCE, PLAIN, COMPILED)),
                _ratio(r, INFERENCE, OURS, COMPILED),
            ]
            for r in results
        ),
    )


def explaining(results: list[Document], counts: Iterable[int]) -> str:
    counts = list(counts)
    head = ["network", *(f"{n} image{'s' * (n > 1)}: plain, ms | ours | ours folded | reference" for n in counts)]
    rows = (
        [
            f"`{r['network']}`",
            *(
                cell
                for n in counts
                for cell in (
                    _ms(_seconds(r, EXPLAINING, PLAIN, EAGER, n)),
                    _ratio(r, EXPLAINING, OURS, EAGER, n),
                    _ratio(r, EXPLAINING, OURS, FOLDED, n),
                    _ratio(r, EXPLAINING, REFERENCE, EAGER, n),
                )
            ),
        ]
        for r in results
    )
    return _table(" | ".join(head).split(" | "), rows)


def _scaling(grown: dict[str, Any]) -> str:
    rows = []
    for what, label in (("side", "side of the image"), ("targets", "targets"), ("batch", "images")):
        times = {value: min(taken) for value, taken in grown[f"by {what}"].items()}
        rows.append([label, *(f"{value}: {seconds:.2f} s" for value, seconds in times.items())])
    most = max(map(len, rows))
    return _table(["varied", *[""] * (most - 1)], [row + [""] * (most - len(row)) for row in rows])


def _trainings(found: dict[str, Any]) -> str:
    memory = found["gradient checkpointing"]
    head = ["gradient checkpointing", *(f"`cifar10_resnet{depth}`" for depth in memory["false"])]
    names = {"false": "without", "true": "with"}
    return _table(head, [[names[name], *(f"{held:,.0f}" for held in by.values())] for name, by in memory.items()])


def _exactness(found: dict[str, Any]) -> str:
    rows = []
    for name, by_type in found.items():
        for dtype, e in by_type.items():
            row = [e, ""] if isinstance(e, str) else [f"{e['residual']:.1e}", f"{e['probe']:.1e}"]
            rows.append([f"`{name}`", dtype, *row])
    return _table(["network", "type", "residual", "probe"], rows)


def spread(results: list[Document]) -> str:
    """How far medians lie above the minima, which are what the tables show."""
    above = [median(row["wall"]) / min(row["wall"]) - 1 for r in results for row in r["times"]]
    return f"Medians lie {median(above):.0%} above the minima, at most {max(above):.0%}." if above else ""


def _others(document: Document) -> list[str]:
    lines: list[str] = []
    for r in document.get("grids", []):
        ours, theirs = r[OURS], r[REFERENCE]
        lines.append(
            f"| GridPG 3×3, `{r['network']}`, a grid | {ours:.2f} s | by the reference's protocol {theirs:.2f} s: "
            f"{theirs / ours:.1f} times as long |"
        )
    if pipe := document.get("pipeline"):
        best = {name: max(rates) for name, rates in pipe["images/s"].items()}
        lines.append(
            f"| reading {pipe['images']} photographs for training, {pipe['side']} px, {pipe['workers']} workers | "
            f"{best['shards']:.0f} images/s | ImageFolder and DataLoader {best['ImageFolder']:.0f} images/s: "
            f"{best['shards'] / best['ImageFolder']:.2f} times as many |"
        )
    if work := document.get("commands"):
        for name, times in work.items():
            if isinstance(times, dict):
                wall = min(times["wall"])
                what = f"`bcos {name}`, {work['images']} photographs, `{work['network']}`"
                lines.append(f"| {what} | {wall:.1f} s | {work['images'] / wall:.1f} images/s |")
    for name, times in document.get("startup", {}).items():
        lines.append(f"| `{name}` | {min(times['wall']):.2f} s | user time {min(times['user']):.2f} s |")
    return lines


def markdown(document: Document) -> str:
    """The section of one machine."""
    results, where = document["networks"], document["conditions"]
    parts = [
        f"{document['machine']}, {document['date']}, Python {document['python']}, torch {document['torch']}, "
        f"{where['threads']} threads, {'bf16 autocast, channels last' if where['bf16'] else 'float32'}. "
        "Times of the plain network in milliseconds, all others in units of it, compiled ones of the compiled one. "
        f"{spread(results)}",
    ]
    if results:
        parts += [
            "**Training step** (forward, backward, Adam), and the most memory that one needs with "
            f"{where['memory_batch']} images, network and optimizer counted:",
            training(results),
            "**Inference**:",
            inference(results),
            "**Explaining a batch**; of the plain network a forward pass and the gradient of its images. The reference "
            "explains one image after the other:",
            explaining(results, where["explained"]),
        ]
    if times := [f"`{r['network']}` {t:.0f} s" for r in results for side, t in r["compiling"].items() if side == OURS]:
        parts += [f"Compiling a training step and inference of ours took: {', '.join(times)}, without a cache."]
    if rounded := {r["network"]: r["exactness"] for r in results if "exactness" in r}:
        parts += [
            "**Exact in every type**: the residual of Σ contributions + constants = logit, as a share of their size, "
            "and what the probe found:",
            _exactness(rounded),
        ]
    if others := _others(document):
        parts += ["**Commands and data**:", "\n".join(["| what | took | beside |", "|---|---|---|", *others])]
    if grown := document.get("scaling"):
        parts += [
            f"**Scaling**: seconds of an explanation of `{grown['network']}`, {grown['batch']} images of "
            f"{grown['side']}×{grown['side']} with one target unless told otherwise:",
            _scaling(grown),
        ]
    if trained := document.get("training"):
        one, two = trained["images/s"].values()
        parts += [
            f"**Training by depth**: the most MiB that `bcos train` holds with {trained['images']} images of 32×32 a "
            "step, program and libraries counted:",
            _trainings(trained),
            f"Images a second of `cifar10_resnet20`, a thread a process: {one:,.0f} with one process, {two:,.0f} with "
            "two.",
        ]
    failed = [
        f"- `{r['network']}`, {e['side']}, {e['what']}: {e['error'].splitlines()[-1]}"
        for r in results
        for e in r["errors"]
    ]
    if failed:
        parts += ["**Not measured**:", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def section(device: str) -> tuple[str, str]:
    """The lines between which the section of a device stands in a document."""
    return f"<!-- measured on {device}: begin -->\n", f"<!-- measured on {device}: end -->\n"


def write_section(path: Path, device: str, text: str) -> None:
    """Replace the section of a device in a document."""
    begin, end = section(device)
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{path} has no section for {device}; give it one between {begin.strip()} and {end.strip()}")
    path.write_text(before + begin + "\n" + text + "\n" + end + rest.partition(end)[2], encoding="utf-8")
