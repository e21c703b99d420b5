"""The page, made with Gradio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils

from bcos_cli.explain.sheets import percent, sum_note
from bcos_cli.explain.targets import class_text
from bcos_cli.messages import tell
from bcos_cli.serve.examples import Example
from bcos_cli.serve.networks import PageExplainer, Prediction, UnexplainedError, methods_offered
from bcos_cli.serve.results import LAYOUTS, Layout, examples_html, problem, results
from bcos_cli.serve.uploads import SUFFIXES
from bcos_core.errors import BcosError, shown
from bcos_explain import ExplainedImage, explainer_specs

PREDICTED = -1
"""Choice of a class that stands for the predicted one; of one to compare it with, for none."""
_EMPTY = '<p class="bcos-empty">Drop an image, and see what networks take it for, and why.</p>'
_HOUR = 3600
_TEMPORARY = (_HOUR, 24 * _HOUR)
"""Interval and age, in seconds, at which old uploads are deleted; all are deleted when the page ends."""
_PARALLEL = 40
"""Requests at a time, most of which wait in the queue of a method: as many as Gradio has threads."""


def build_page(explainer: PageExplainer, methods: Sequence[str], examples: Sequence[Example] = ()) -> gr.Blocks:
    """Build the page, not yet served; `methods` are ticked at the start, `examples` offered below the image."""
    names = list(explainer.networks)
    exact = {spec.name for spec in explainer_specs() if spec.exact}
    offered = [(f"{name} (exact)" if name in exact else name, name) for name in methods_offered()]
    page = gr.Blocks(title="bcos serve", analytics_enabled=False, delete_cache=_TEMPORARY, fill_width=True)
    with page:
        gr.Markdown("# What the network sees\nEvery logit is a linear map of the image, exactly: W(x)·x + b(x).")
        with gr.Row(elem_id="bcos-page"):  # in this order on a phone, too: the answer above the choices
            with gr.Column():
                limits = explainer.limits
                file = file_input(f"image, up to {limits.megabytes:g} MB")
                gr.HTML(examples_html(examples), visible=bool(examples))
            with gr.Column():
                shown = gr.HTML(_EMPTY, elem_id="bcos-shown")
            with gr.Column():
                network = gr.Dropdown(names, value=names[0], label="network", visible=len(names) > 1)
                top = gr.Radio([], label="most likely: choose one to explain it", visible=False, elem_id="bcos-top")
                target = gr.Dropdown(
                    _classes(explainer, names[0]), value=PREDICTED, label="explained class", elem_id="bcos-class"
                )
                against = gr.Dropdown(
                    _others(explainer, names[0]), value=PREDICTED, label="and not", elem_id="bcos-against"
                )
                chosen = gr.CheckboxGroup(offered, value=list(methods), label="methods", elem_id="bcos-methods")
                layout = gr.Radio(list(LAYOUTS), value=LAYOUTS[0], label="layout", elem_id="bcos-layout")
                visitor = gr.State(Visitor())
        _connect(explainer, (visitor, file, network, target, against, chosen, layout), (top, shown))
    fetch_nothing()
    return page


def fetch_nothing() -> None:
    """Refuse requests that name an address instead of an upload: Gradio would fetch it, for whichever component."""
    processing_utils.async_ssrf_protected_download = _fetch_nothing


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    del cache_dir  # which Gradio names
    problem = f"the page fetches nothing from elsewhere, asked for {shown(url)}; upload the file"
    tell(problem)
    raise gr.Error(problem, print_exception=False)


@dataclass
class Visitor:
    """One visitor of the page, whose earlier requests stop when there is a later one."""

    latest: object = None


def _connect(
    explainer: PageExplainer,
    inputs: tuple[gr.State, gr.File, gr.Dropdown, gr.Dropdown, gr.Dropdown, gr.CheckboxGroup, gr.Radio],
    outputs: tuple[gr.Radio, gr.HTML],
) -> None:
    """Connect the inputs of the page with what they change."""
    _, file, network, target, against, chosen, layout = inputs
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
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", **common}
    classes = [target, against]

    def of_network(name: str) -> tuple[gr.Dropdown, gr.Dropdown]:
        choices = _classes(explainer, name), _others(explainer, name)
        return gr.Dropdown(choices[0], value=PREDICTED), gr.Dropdown(choices[1], value=PREDICTED)

    gr.on([target.input, against.input, chosen.input, layout.input], **explaining)
    file.change(lambda: (PREDICTED, PREDICTED), None, classes, **quick).then(**explaining)
    top.input(lambda k: k, top, target, **quick).then(**explaining)
    network.input(of_network, network, classes, **quick).then(**explaining)


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
    explainer: PageExplainer,
    path: str | None,
    network: str,
    target: int,
    against: int,
    methods: Sequence[str],
    layout: Layout,
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
    target_class = prediction.target(*(None if k == PREDICTED else k for k in (target, against)))
    yield _most_likely(prediction, target_class.index), gr.skip()
    explained: dict[str, ExplainedImage | str | None] = dict.fromkeys(m for m in methods_offered() if m in methods)
    for method in explained:
        queue = prediction.network.queue(method)
        if queue.requests or queue.seconds >= 1:  # say what this one waits for
            yield gr.skip(), results(prediction, target_class, name, explained, layout=layout)
        try:
            explained[method] = explainer.explain(prediction, target_class, method)
        except UnexplainedError as reason:
            explained[method] = str(reason)
        yield gr.skip(), results(prediction, target_class, name, explained, layout=layout)
    if not explained:
        nothing = problem("no method is chosen; tick one")
        yield gr.skip(), nothing + results(prediction, target_class, name, explained)


def file_input(label: str) -> gr.File:
    """Make the field for an upload, which refuses in one line where Gradio would print a traceback."""
    file = gr.File(label=label, file_types=list(SUFFIXES), height=170, elem_id="bcos-file")
    # a subclass would be another component, of which Gradio writes a stub beside this module
    file.preprocess = partial(_taken, file.preprocess)  # type: ignore[method-assign] # reason: see above
    return file


def _taken(preprocess: Callable[[Any], Any], upload: Any) -> Any:
    """Take an upload, or refuse it without a traceback."""
    try:
        return preprocess(upload)
    except gr.Error as reason:
        name = getattr(upload, "orig_name", None) or Path(getattr(upload, "path", "")).name
        problem = f"{name}: this is no file that the page takes; {', '.join(SUFFIXES)} are read"
        tell(problem)
        raise gr.Error(problem, print_exception=False) from reason


def _most_likely(prediction: Prediction, explained: int) -> gr.Radio:
    classes = prediction.network.trained.classes
    choices = [(f"{class_text(k, classes)} · {percent(share)}", k) for k, share in prediction.top]
    value = explained if explained in dict(prediction.top) else None
    return gr.Radio(choices, value=value, info=sum_note(prediction.probabilities), visible=True)


def _classes(explainer: PageExplainer, network: str) -> list[tuple[str, int]]:
    classes = explainer.networks[network].trained.classes
    return [("as predicted", PREDICTED), *((class_text(k, classes), k) for k in range(len(classes)))]


def _others(explainer: PageExplainer, network: str) -> list[tuple[str, int]]:
    return [("no other class", PREDICTED), *_classes(explainer, network)[1:]]
