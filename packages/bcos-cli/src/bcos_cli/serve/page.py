"""The page, made with Gradio."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from bcos_cli.explain.answers import Subject
from bcos_cli.explain.sheets import percent
from bcos_cli.explain.targets import class_text
from bcos_cli.serve.requests import Answerer, Look, UnexplainedError, methods_offered
from bcos_cli.serve.results import LAYOUTS, Layout, problem, results
from bcos_cli.serve.uploads import SUFFIXES
from bcos_core.errors import BcosError
from bcos_explain import explainer_specs

PREDICTED = -1
"""The choice of a class that stands for the predicted one."""
_EMPTY = '<p class="bcos-empty">Drop an image, and see what it is taken for, and why.</p>'
_HOUR = 3600
_TEMPORARY = (_HOUR, 24 * _HOUR)
"""How often uploads are looked through, and the age at which they go, in seconds; all go in the end."""
_PARALLEL = 4
"""Requests at a time; each network answers one."""


def build_page(answerer: Answerer, methods: Sequence[str]) -> gr.Blocks:
    """The page, not yet served.

    Args:
        answerer: what is behind it.
        methods: that are ticked at the start.
    """
    names = list(answerer.networks)
    exact = {spec.name for spec in explainer_specs() if spec.exact}
    offered = [(f"{name} (exact)" if name in exact else name, name) for name in methods_offered()]
    page = gr.Blocks(title="bcos serve", analytics_enabled=False, delete_cache=_TEMPORARY, fill_width=True)
    with page:
        gr.Markdown("# What the network sees\nEvery logit is a linear map of the image, exactly: W(x)·x + b(x).")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                limits = answerer.limits
                label = f"image, up to {limits.megabytes:g} MB"
                file = gr.File(label=label, file_types=list(SUFFIXES), height=170, elem_id="bcos-file")
                network = gr.Dropdown(names, value=names[0], label="network", visible=len(names) > 1)
                top = gr.Radio([], label="most likely: choose one to explain it", visible=False, elem_id="bcos-top")
                target = gr.Dropdown(
                    _classes(answerer, names[0]), value=PREDICTED, label="explained class", elem_id="bcos-class"
                )
                chosen = gr.CheckboxGroup(offered, value=list(methods), label="methods", elem_id="bcos-methods")
                layout = gr.Radio(list(LAYOUTS), value=LAYOUTS[0], label="layout", elem_id="bcos-layout")
                turn = gr.State(Turn())
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(_EMPTY, elem_id="bcos-shown")
        _connect(answerer, (turn, file, network, target, chosen, layout), (top, shown))
    return page


@dataclass
class Turn:
    """Of one visitor: which request is the latest, so that earlier ones know that they are no longer waited for."""

    latest: object = None


def _connect(
    answerer: Answerer,
    asked: tuple[gr.State, gr.File, gr.Dropdown, gr.Dropdown, gr.CheckboxGroup, gr.Radio],
    answered: tuple[gr.Radio, gr.HTML],
) -> None:
    """Say what happens when."""
    _, file, network, target, chosen, layout = asked
    top, shown = answered
    answering: dict[str, Any] = {
        "fn": partial(respond, answerer),
        "inputs": list(asked),
        "outputs": [top, shown],
        "concurrency_limit": _PARALLEL,
        "concurrency_id": "answers",
        "trigger_mode": "multiple",
        "show_progress_on": shown,
        "api_visibility": "private",
    }
    quick: dict[str, Any] = {
        "outputs": target,
        "queue": False,
        "trigger_mode": "multiple",
        "show_progress": "hidden",
        "api_visibility": "private",
    }

    def other_classes(name: str) -> gr.Dropdown:
        return gr.Dropdown(_classes(answerer, name), value=PREDICTED)

    gr.on([target.input, chosen.input, layout.input], **answering)
    file.change(lambda: PREDICTED, None, **quick).then(**answering)
    top.input(lambda k: k, top, **quick).then(**answering)
    network.input(other_classes, network, **quick).then(**answering)


def respond(answerer: Answerer, turn: Turn, *asked: Any) -> Iterator[tuple[Any, Any]]:
    """As :func:`answer`, until the same visitor asks again.

    Gradio sends the last update twice, which is none, so that it cannot come after those of a later request.
    """
    turn.latest = mine = object()
    for update in answer(answerer, *asked):
        if turn.latest is not mine:
            break
        yield update
    yield gr.skip(), gr.skip()


def answer(
    answerer: Answerer, path: str | None, network: str, target: int, methods: Sequence[str], layout: Layout
) -> Iterator[tuple[Any, Any]]:
    """Choices among the most likely classes and the answers, as far as they are known, step by step."""
    if path is None:
        yield gr.Radio(visible=False), _EMPTY
        return
    name = Path(path).name
    try:
        look = answerer.look(Path(path), network)
    except BcosError as reason:
        yield gr.Radio(visible=False), problem(f"{name}: {reason}")
        return
    explained = look.target(None if target == PREDICTED else target)
    yield _most_likely(look, explained), gr.skip()
    answers: dict[str, Subject | str | None] = dict.fromkeys(m for m in methods_offered() if m in methods)
    for method in answers:
        try:
            answers[method] = answerer.explain(look, explained, method)
        except UnexplainedError as reason:
            answers[method] = str(reason)
        yield gr.skip(), results(look, explained, name, answers, layout=layout)
    if not answers:
        yield gr.skip(), problem("no method is chosen; tick one") + results(look, explained, name, answers)


def _most_likely(look: Look, explained: int) -> gr.Radio:
    classes = look.network.trained.classes
    choices = [(f"{class_text(k, classes)} · {percent(share)}", k) for k, share in look.top]
    return gr.Radio(choices, value=explained if explained in dict(look.top) else None, visible=True)


def _classes(answerer: Answerer, network: str) -> list[tuple[str, int]]:
    classes = answerer.networks[network].trained.classes
    return [("as predicted", PREDICTED), *((class_text(k, classes), k) for k in range(len(classes)))]
