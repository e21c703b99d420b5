"""The page, made with Gradio."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from bcos_cli.explain.sheets import percent
from bcos_cli.explain.targets import class_text
from bcos_cli.serve.networks import PageExplainer, Prediction, UnexplainedError, methods_offered
from bcos_cli.serve.results import LAYOUTS, Layout, problem, results
from bcos_cli.serve.uploads import SUFFIXES
from bcos_core.errors import BcosError
from bcos_explain import ExplainedImage, explainer_specs

PREDICTED = -1
"""Choice of a class that stands for the predicted one."""
_EMPTY = '<p class="bcos-empty">Drop an image, and see what networks take it for, and why.</p>'
_HOUR = 3600
_TEMPORARY = (_HOUR, 24 * _HOUR)
"""Interval and age, in seconds, at which old uploads are deleted; all are deleted when the page ends."""
_PARALLEL = 4
"""Requests at a time; each network serves one."""


def build_page(explainer: PageExplainer, methods: Sequence[str]) -> gr.Blocks:
    """Build the page, not yet served; `methods` are ticked at the start."""
    names = list(explainer.networks)
    exact = {spec.name for spec in explainer_specs() if spec.exact}
    offered = [(f"{name} (exact)" if name in exact else name, name) for name in methods_offered()]
    page = gr.Blocks(title="bcos serve", analytics_enabled=False, delete_cache=_TEMPORARY, fill_width=True)
    with page:
        gr.Markdown("# What the network sees\nEvery logit is a linear map of the image, exactly: W(x)·x + b(x).")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                limits = explainer.limits
                label = f"image, up to {limits.megabytes:g} MB"
                file = gr.File(label=label, file_types=list(SUFFIXES), height=170, elem_id="bcos-file")
                network = gr.Dropdown(names, value=names[0], label="network", visible=len(names) > 1)
                top = gr.Radio([], label="most likely: choose one to explain it", visible=False, elem_id="bcos-top")
                target = gr.Dropdown(
                    _classes(explainer, names[0]), value=PREDICTED, label="explained class", elem_id="bcos-class"
                )
                chosen = gr.CheckboxGroup(offered, value=list(methods), label="methods", elem_id="bcos-methods")
                layout = gr.Radio(list(LAYOUTS), value=LAYOUTS[0], label="layout", elem_id="bcos-layout")
                visitor = gr.State(Visitor())
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(_EMPTY, elem_id="bcos-shown")
        _connect(explainer, (visitor, file, network, target, chosen, layout), (top, shown))
    return page


@dataclass
class Visitor:
    """One visitor of the page, whose earlier requests stop when there is a later one."""

    latest: object = None


def _connect(
    explainer: PageExplainer,
    inputs: tuple[gr.State, gr.File, gr.Dropdown, gr.Dropdown, gr.CheckboxGroup, gr.Radio],
    outputs: tuple[gr.Radio, gr.HTML],
) -> None:
    """Connect the inputs of the page with what they change."""
    _, file, network, target, chosen, layout = inputs
    top, shown = outputs
    common = {"trigger_mode": "multiple", "api_visibility": "private"}
    explaining: dict[str, Any] = {
        "fn": partial(respond, explainer),
        "inputs": list(inputs),
        "outputs": [top, shown],
        "concurrency_limit": _PARALLEL,
        "concurrency_id": "explanations",
        "show_progress_on": shown,
        **common,
    }
    quick: dict[str, Any] = {"outputs": target, "queue": False, "show_progress": "hidden", **common}

    gr.on([target.input, chosen.input, layout.input], **explaining)
    file.change(lambda: PREDICTED, None, **quick).then(**explaining)
    top.input(lambda k: k, top, **quick).then(**explaining)
    network.input(lambda name: gr.Dropdown(_classes(explainer, name), value=PREDICTED), network, **quick).then(
        **explaining
    )


def respond(explainer: PageExplainer, visitor: Visitor, *values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the updates of :func:`explain_upload`, until the same visitor sends another request.

    Gradio sends the last update twice; that one is empty, so that it changes nothing after a later request.
    """
    visitor.latest = request = object()
    for update in explain_upload(explainer, *values):
        if visitor.latest is not request:
            break
        yield update
    yield gr.skip(), gr.skip()


def explain_upload(
    explainer: PageExplainer, path: str | None, network: str, target: int, methods: Sequence[str], layout: Layout
) -> Iterator[tuple[Any, Any]]:
    """Yield updates of the page: the most likely classes to choose from, then the explanations, method by method."""
    if path is None:
        yield gr.Radio(visible=False), _EMPTY
        return
    name = Path(path).name
    try:
        prediction = explainer.predict(Path(path), network)
    except BcosError as reason:
        yield gr.Radio(visible=False), problem(f"{name}: {reason}")
        return
    target_class = prediction.target(None if target == PREDICTED else target)
    yield _most_likely(prediction, target_class), gr.skip()
    explained: dict[str, ExplainedImage | str | None] = dict.fromkeys(m for m in methods_offered() if m in methods)
    for method in explained:
        try:
            explained[method] = explainer.explain(prediction, target_class, method)
        except UnexplainedError as reason:
            explained[method] = str(reason)
        yield gr.skip(), results(prediction, target_class, name, explained, layout=layout)
    if not explained:
        nothing = problem("no method is chosen; tick one")
        yield gr.skip(), nothing + results(prediction, target_class, name, explained)


def _most_likely(prediction: Prediction, explained: int) -> gr.Radio:
    classes = prediction.network.trained.classes
    choices = [(f"{class_text(k, classes)} · {percent(share)}", k) for k, share in prediction.top]
    return gr.Radio(choices, value=explained if explained in dict(prediction.top) else None, visible=True)


def _classes(explainer: PageExplainer, network: str) -> list[tuple[str, int]]:
    classes = explainer.networks[network].trained.classes
    return [("as predicted", PREDICTED), *((class_text(k, classes), k) for k in range(len(classes)))]
