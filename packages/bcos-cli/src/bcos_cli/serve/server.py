"""The server of the page, which runs until somebody stops it."""

import os
import signal
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from bcos_cli import console
from bcos_cli.messages import tell
from bcos_cli.serve.address import Address
from bcos_cli.serve.examples import named_examples, run_examples
from bcos_cli.serve.networks import PageExplainer, load_networks
from bcos_cli.serve.uploads import Limits
from bcos_core.errors import BcosError
from bcos_explain import get_explainer
from bcos_models.images import Range

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Gradio reports nothing to anybody, and browsers keep no record of requests."""


def serve(
    runs_or_models: Sequence[str],
    *,
    weights: str | None = None,
    classes: Path | None = None,
    range: Range | None = None,
    truncated: bool = False,
    address: Address | None = None,
    limits: Limits | None = None,
    methods: Sequence[str] = ("bcos",),
    examples: Sequence[str] = (),
    open_browser: bool = False,
) -> None:
    """Serve the page until the process is interrupted or told to end.

    Args:
        range: the values that are black and white in images of more than 8 bits; None for those of each network.
        truncated: read JPEGs that were cut off.
        address: where to listen; reachable from this machine alone by default.
        methods: explainers that are ticked at the start.
        examples: images to try the page with, as for ``bcos explain``; without any, test images of the first run.

    Raises:
        BcosError: no Gradio, an unknown network or explainer, or an address that cannot be listened at.
    """
    if find_spec("gradio") is None:
        raise BcosError("bcos serve needs gradio, which is not installed; get it with: pip install 'bcos-cli[serve]'")
    for method in methods:
        get_explainer(method)
    address = (address or Address()).free()
    offered = named_examples(examples, truncated=truncated)
    explainer = PageExplainer(
        load_networks(runs_or_models, weights, classes, range), limits or Limits(), truncated=truncated
    )
    offered = offered or run_examples(runs_or_models[0], next(iter(explainer.networks.values())).trained)
    if address.warning is not None:
        tell(f"warning: {address.warning}")
    stopped = Event()
    # SIGINT too: a shell starts background programs with it ignored
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with TemporaryDirectory(prefix="bcos-serve-") as folder:
            os.environ.update(_QUIET, GRADIO_TEMP_DIR=folder)
            from bcos_cli.serve.page import build_page  # Gradio, which reads the environment

            page = build_page(explainer, methods, offered)
            try:
                page.launch(**launch_options(address, explainer.limits, Path(folder)), inbrowser=open_browser)
                console.out.print(f"serving {address.url}\nCtrl-C stops it", soft_wrap=True)
                stopped.wait()
            finally:
                page.close(verbose=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch_options(address: Address, limits: Limits, folder: Path) -> dict[str, Any]:
    """Options for Gradio: nothing is shared, no files are served but uploads, nothing is loaded from elsewhere."""
    import gradio as gr
    from starlette.middleware import Middleware

    from bcos_cli.serve.access import BoundedUploads, OwnPageOnly, SecurityHeaders

    own = files("bcos_cli.serve")
    return {
        "server_name": address.host,
        "server_port": address.port,
        "max_file_size": limits.bytes,
        "allowed_paths": [],
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "footer_links": [],
        "prevent_thread_lock": True,
        "quiet": True,
        "app_kwargs": {
            "middleware": [
                Middleware(SecurityHeaders),
                Middleware(OwnPageOnly, address=address),
                Middleware(BoundedUploads, folder=folder, limits=limits),
            ]
        },
        "theme": gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=("ui-monospace", "Menlo", "monospace")),
        "css": (own / "page.css").read_text(encoding="utf-8"),
        "head": f"<script>{(own / 'page.js').read_text(encoding='utf-8')}</script>",
    }
