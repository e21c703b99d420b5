"""What is behind the page of ``bcos serve``, without a browser."""

import asyncio
import base64
import io
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.config import dump_recipe
from bcos_cli.data.image_decoder import UnreadableImageError, decode
from bcos_cli.data.index import load_index
from bcos_cli.data.input_image import read_image
from bcos_cli.data.loader import images_at
from bcos_cli.data.pixels import USUAL
from bcos_cli.explain.sheets import sum_note
from bcos_cli.serve.address import Address
from bcos_cli.serve.examples import named_examples, run_examples
from bcos_cli.serve.networks import Network, PageExplainer, Queue, UnexplainedError, load_networks, methods_offered
from bcos_cli.serve.results import examples_html, problem, results
from bcos_cli.serve.uploads import Limits, read_upload
from bcos_cli.train.model import build
from bcos_core import BcosError, explain
from bcos_explain import ClassTarget, get_explainer
from bcos_models import load_trained

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)> & {{value}} ${value}'
CLASSES = ["rows", "columns", EVIL]


@pytest.fixture
def run(recipe, tmp_path):
    trained = build(recipe(data={"image_size": 16, "image_channels": 3}), CLASSES)
    trained.model(torch.rand(8, 6, 16, 16))
    trained.model.eval()
    trained.save(tmp_path / "run" / "model.safetensors")
    return "run"


@pytest.fixture
def explainer(run):
    return PageExplainer(load_networks([run]), Limits())


@pytest.fixture
def picture(tmp_path):
    """Write noise of 24×16 pixels and return the path."""

    def make(name="noise.png", mode="RGB", seed=0, size=(24, 16), **options):
        shape = (*size[::-1], 3)
        noise = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(noise).convert(mode).save(tmp_path / name, **options)
        return tmp_path / name

    return make


class Figures(HTMLParser):
    """Attributes of all elements, and all text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, kind):
        return [a for tag, a in self.elements if tag == "figure" and a.get("data-kind") == kind]


def pixels_of(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))


def array_of(figure):
    return np.load(io.BytesIO(base64.b64decode(figure["data-npy"])), allow_pickle=False)


def shown(explainer, path, *, target=None, methods=("bcos",), layout="side by side"):
    prediction = explainer.predict(path, next(iter(explainer.networks)))
    target = prediction.target(target)
    answers = {method: explainer.explain(prediction, target, method) for method in methods}
    return Figures(results(prediction, target, path.name, answers, layout=layout))


def exactly(run, path, target=None):
    trained = load_trained(run)
    return explain(trained.model, trained.encode(read_image(path, trained.input).pixels[None]), target)


@pytest.mark.parametrize("target", [None, 0, 1, 2])
def test_the_map_on_the_page_is_that_of_the_exact_explanation(target, run, explainer, picture):
    page = shown(explainer, picture(), target=target)
    (figure,) = page.of("map")
    expected = exactly(run, picture(), target)
    assert (figure["data-width"], figure["data-height"], figure["data-unit"]) == ("16", "16", "logit")
    assert array_of(figure).dtype == np.dtype("<f4")
    np.testing.assert_allclose(array_of(figure), expected.map[0].numpy(), rtol=1e-4, atol=1e-7)
    assert figure["data-file"] == f"noise.{int(expected.target[0])}.bcos.npy"
    assert "✓ adds up" in page.text


def test_the_input_on_the_page_is_what_the_network_sees(run, explainer, picture):
    page = shown(explainer, picture())
    sources = [a["src"] for tag, a in page.elements if tag == "img"]
    assert len(sources) == 4  # input, W, contributions, their scale
    seen = read_image(picture(), load_trained(run).input).pixels.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels_of(sources[0]), seen)
    assert pixels_of(sources[1]).shape == (16, 16, 4)
    assert "24×16 pixels, 16×16 for the network" in page.text


def test_overlays_are_painted_on_the_input_and_keep_the_values(explainer, picture):
    apart, over = (shown(explainer, picture(), layout=layout) for layout in ("side by side", "overlay"))
    assert array_of(apart.of("map")[0]).tobytes() == array_of(over.of("map")[0]).tobytes()
    first, second = ([a["src"] for tag, a in page.elements if tag == "img"] for page in (apart, over))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[2] != second[2]


def test_probabilities_and_their_order_are_those_of_the_network(run, explainer, picture):
    prediction = explainer.predict(picture(), "run")
    expected = exactly(run, picture()).logits[0].sigmoid()
    np.testing.assert_allclose(prediction.probabilities, expected.numpy(), rtol=1e-4)
    assert list(prediction.order) == expected.argsort(descending=True).tolist()
    assert prediction.top == [(k, prediction.probabilities[k]) for k in prediction.order]


def test_each_method_has_its_map(run, explainer, picture):
    methods = ("bcos", "input_x_gradient", "gradcam")
    page = shown(explainer, picture(), target=1, methods=methods)
    figures = page.of("map")
    assert [f["data-unit"] for f in figures] == ["logit", "", ""]
    trained = load_trained(run)
    x = trained.encode(read_image(picture(), trained.input).pixels[None])
    for figure, method in zip(figures, methods, strict=True):
        attribution = get_explainer(method)(trained.model, x, 1)[0]
        expected = attribution.sum(0) if attribution.ndim == 3 else attribution
        np.testing.assert_allclose(array_of(figure), expected.numpy(), rtol=1e-3, atol=1e-6)
    assert page.text.count("not exact, per pixel") == 2
    assert "sum " not in page.text  # only what adds up to the logit stands beside it


def test_a_method_that_cannot_is_one_line_and_the_others_are_shown(explainer, picture):
    prediction = explainer.predict(picture(), "run")
    with pytest.raises(UnexplainedError, match="needs a transformer") as caught:
        explainer.explain(prediction, ClassTarget(0), "attention_rollout")
    answers = {
        "attention_rollout": str(caught.value),
        "bcos": explainer.explain(prediction, ClassTarget(0), "bcos"),
        "lime": None,
    }
    html = results(prediction, ClassTarget(0), "noise.png", answers)
    page = Figures(html)
    assert len(page.of("map")) == 1
    assert re.search(r'<p class="bcos-problem" role="alert">attention_rollout: [^<\n]*transformer[^<\n]*</p>', html)
    assert "working …" in page.text


def test_a_method_with_a_bug_is_one_line(explainer, picture, monkeypatch):
    def broken(name):
        def explainer(model, x, target=None):
            raise RuntimeError("first\nsecond")

        return explainer

    monkeypatch.setattr("bcos_explain.batch.get_explainer", broken)
    with pytest.raises(UnexplainedError, match=r"^it failed: RuntimeError: first$"):
        explainer.explain(explainer.predict(picture(), "run"), ClassTarget(0), "gradient")


def test_a_class_or_network_that_is_not_there_is_refused(explainer, picture):
    with pytest.raises(UnexplainedError, match="there is no class 3; this network has 3"):
        explainer.explain(explainer.predict(picture(), "run"), ClassTarget(3), "bcos")
    with pytest.raises(BcosError, match="there is no network 'other' here; choose one of run"):
        explainer.predict(picture(), "other")


def test_hostile_names_stay_text(explainer, picture):
    prediction = explainer.predict(picture(), "run")
    html = results(
        prediction, ClassTarget(2), EVIL, {"bcos": explainer.explain(prediction, ClassTarget(2), "bcos"), EVIL: EVIL}
    ) + problem(EVIL)
    page = Figures(html)
    assert {tag for tag, _ in page.elements} & {"script"} == set()
    assert all(a["src"].startswith("data:image/png") for tag, a in page.elements if tag == "img")
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert page.text.count(EVIL) >= 4
    assert page.of("map")[0]["data-file"].endswith(".2.bcos.npy")


def test_answers_are_remembered_until_the_image_changes(explainer, picture):
    path = picture()
    prediction = explainer.predict(path, "run")
    assert explainer.predict(path, "run") is prediction
    assert explainer.explain(prediction, ClassTarget(0), "bcos") is explainer.explain(
        prediction, ClassTarget(0), "bcos"
    )
    assert explainer.predict(picture(seed=1), "run") is not prediction


def test_requests_at_the_same_time_do_not_disturb_each_other(explainer, picture):
    paths = [picture(f"{i}.png", seed=i) for i in range(4)]
    found = {}

    def ask(path):
        prediction = explainer.predict(path, "run")
        found[path] = {
            m: explainer.explain(prediction, ClassTarget(1), m).explanations[0].map
            for m in ("bcos", "input_x_gradient")
        }

    threads = [Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = PageExplainer(explainer.networks, Limits())
    for path in paths:
        prediction = alone.predict(path, "run")
        for method, map in found[path].items():
            np.testing.assert_allclose(
                map, alone.explain(prediction, ClassTarget(1), method).explanations[0].map, rtol=1e-4, atol=1e-7
            )


def test_exact_methods_are_offered_first():
    offered = methods_offered()
    assert offered[0] == "bcos"
    assert {"gradcam", "lime", "integrated_gradients"} < set(offered)
    assert len(set(offered)) == len(offered)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif", "jpeg-named.png", "upper.PNG"])
def test_images_of_these_formats_are_read_whatever_they_are_called(name, run, picture, tmp_path):
    path = picture(name, **({"format": "jpeg"} if "jpeg-named" in name else {}))
    assert read_upload(path, load_trained(run).input, Limits()).pixels.shape == (3, 16, 16)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "L", "P", "I;16"])
def test_images_are_taken_as_people_see_them(mode, run, tmp_path):
    square = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    deep = Image.fromarray(np.full((16, 16), 200 * 257, np.uint16))
    image = deep if mode == "I;16" else square.quantize() if mode == "P" else square.convert(mode)
    image.save(tmp_path / "a.tif")
    pixels = read_upload(tmp_path / "a.tif", load_trained(run).input, Limits()).pixels
    assert (pixels.float() - 200).abs().max() <= 2


def test_images_are_turned_upright_and_transparency_is_white(run, tmp_path):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.save(tmp_path / "clear.png")
    seen = load_trained(run).input
    assert read_upload(tmp_path / "clear.png", seen, Limits()).pixels.min() == 255
    half = Image.fromarray(np.concatenate([np.zeros((8, 16, 3)), np.full((8, 16, 3), 255)]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(tmp_path / "turned.png", exif=exif)
    pixels = read_upload(tmp_path / "turned.png", seen, Limits()).pixels.float()
    assert pixels[:, 0].mean() > 250
    assert pixels[:, -1].mean() < 5


def test_the_first_frame_of_an_animation_is_read(run, tmp_path):
    frames = [Image.new("L", (16, 16), value) for value in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_upload(tmp_path / "a.gif", load_trained(run).input, Limits()).pixels.unique().tolist() == [40]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"only text",
            "cannot be read: this is no image, or of another format; PNG, JPEG, WebP, BMP, GIF and TIFF are read",
        ),
        (b"", "the file is empty; PNG, JPEG, WebP, BMP, GIF and TIFF are read"),
        (b"P6 2 2 255 " + bytes(12), "this is no image, or of another format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "this is no image, or of another format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is no image, or of another format"),
        (b"\x89PNG\r\n\x1a\n" + b"junk" * 9, "cannot be read: "),
    ],
)
def test_other_files_are_refused_whatever_they_are_called(content, message, run, tmp_path):
    (tmp_path / "named.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=re.escape(message)):
        read_upload(tmp_path / "named.png", load_trained(run).input, Limits())


def test_damaged_and_missing_files_are_refused(run, picture, tmp_path):
    path = picture()
    path.write_bytes(path.read_bytes()[:400])
    seen = load_trained(run).input
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        read_upload(path, seen, Limits())
    path.unlink()
    with pytest.raises(UnreadableImageError, match="no longer there; drop it again"):
        read_upload(path, seen, Limits())


def test_a_cut_off_jpeg_is_refused_with_the_option_of_the_command(run, tmp_path, bcos):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    seen = load_trained(run).input
    with pytest.raises(UnreadableImageError, match=r"cut off: .*; bcos serve --allow-truncated reads what there is$"):
        read_upload(path, seen, Limits())
    assert read_upload(path, seen, Limits(), truncated=True).size == (64, 64)
    with pytest.raises(UnreadableImageError, match=r"cut off: [^;]*; --allow-truncated reads what there is$"):
        read_image(path, seen)
    with pytest.raises(UnreadableImageError, match=r"; --allow-truncated, or data\.truncated=allow, reads what"):
        decode(path, USUAL)


@pytest.mark.parametrize("name", ["notes.txt", "phone.heic"])
def test_an_upload_that_is_no_image_is_one_line_in_the_terminal(name, tmp_path, capsys):
    gr = pytest.importorskip("gradio", reason="gradio is not installed")
    from gradio.data_classes import FileData

    from bcos_cli.serve.page import file_input

    (tmp_path / name).write_text("no image")
    (tmp_path / "photo.png").write_bytes(b"")
    file = file_input("image")
    Path(file.GRADIO_CACHE).mkdir(parents=True, exist_ok=True)  # as an upload does
    with pytest.raises(gr.Error, match=r"this is no file that the page takes; \.png, ") as refused:
        file.preprocess(FileData(path=str(tmp_path / name), orig_name=name))
    assert not refused.value.print_exception  # else Gradio prints a traceback
    said = capsys.readouterr().err
    assert said.startswith(f"bcos: {name}: this is no file that the page takes")
    assert said.count("\n") == 1
    assert str(file.preprocess(FileData(path=str(tmp_path / "photo.png")))).endswith("photo.png")


def test_a_request_that_names_an_address_makes_the_page_fetch_nothing(capsys, monkeypatch):
    gr = pytest.importorskip("gradio", reason="gradio is not installed")
    from gradio import processing_utils

    from bcos_cli.serve.page import fetch_nothing, file_input

    name = "async_ssrf_protected_download"
    monkeypatch.setattr(processing_utils, name, getattr(processing_utils, name))  # and as it was after the test
    fetch_nothing()
    upload = {"path": "http://127.0.0.1:1/p.png", "meta": {"_type": "gradio.FileData"}}
    taken = processing_utils.async_move_files_to_cache(upload, file_input("image"), check_in_upload_folder=True)
    with (
        ThreadPoolExecutor(1) as pool,  # browser tests leave a loop running in this one
        pytest.raises(gr.Error, match=r"fetches nothing from elsewhere, asked for 'http://127.0.0.1:1/p.png'"),
    ):
        pool.submit(asyncio.run, taken).result()
    assert "fetches nothing from elsewhere" in capsys.readouterr().err


def test_too_large_files_and_images_are_refused_before_they_are_decoded(run, picture, monkeypatch):
    path, seen = picture(), load_trained(run).input
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        UnreadableImageError, match=r"the file has .* MB, at most 0.0001 MB are accepted; .*--max-megabytes"
    ):
        read_upload(path, seen, Limits(megabytes=0.0001))
    with pytest.raises(UnreadableImageError, match=r"24×16 pixels, at most 0.0003 megapixels.*--max-megapixels"):
        read_upload(path, seen, Limits(megapixels=0.0003))
    Image.new("1", (10_000, 10_000)).save(path)
    assert path.stat().st_size < 200_000
    with pytest.raises(UnreadableImageError, match="10,000×10,000 pixels, at most 64 megapixels"):
        read_upload(path, seen, Limits())


def test_networks_are_named_as_short_as_they_can_be_told_apart(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run").symlink_to(tmp_path / "run")
    (tmp_path / "copy").symlink_to(tmp_path / "run")
    assert list(load_networks(["run", "run"])) == ["run"]
    assert list(load_networks(["run", "./other/run"])) == ["run", "./other/run"]
    assert all(isinstance(network, Network) for network in load_networks(["run"]).values())


def test_weights_go_with_one_model(run):
    with pytest.raises(BcosError, match="--weights goes with one model, got 2"):
        load_networks(["run", "resnet18"], weights="a.safetensors")
    with pytest.raises(BcosError, match="--classes goes with one model, got 2"):
        load_networks(["run", "resnet18"], classes=Path("names.txt"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_warning(host):
    assert Address(host).warning is None


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "any address of this machine"), ("::", "any address"), ("192.0.2.7", "192.0.2.7")]
)
def test_everything_else_is_warned_of(host, reached):
    warning = Address(host, 80).warning
    assert re.match(rf"everyone who can reach {reached}.* on port 80 .* without a password", warning)
    assert "\n" not in warning


def test_this_machine_alone_is_the_default():
    assert Address().host == "127.0.0.1"
    assert Address().url == "http://127.0.0.1:7860/"
    assert (Address("0.0.0.0", 1).url, Address("::", 1).url) == ("http://127.0.0.1:1/", "http://[::1]:1/")


def test_ports_are_free_or_refused():
    found = Address(port=0).free()
    assert found.port > 0
    with socket.create_server(("127.0.0.1", found.port)), pytest.raises(BcosError, match=r"already in use; .*--port"):
        found.free()
    with pytest.raises(BcosError, match=r"cannot listen at 192\.0\.2\.7"):
        Address("192.0.2.7", 0).free()
    with pytest.raises(BcosError, match=r"there is no host 'no\.such\.host\.invalid'"):
        Address("no.such.host.invalid").free()


def test_gradio_gets_its_limits_and_shares_nothing(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from bcos_cli.serve.server import launch_options

    options = launch_options(Address("127.0.0.1", 7000), Limits(megabytes=2), tmp_path)
    assert (options["server_name"], options["server_port"]) == ("127.0.0.1", 7000)
    assert options["max_file_size"] == 2 * 2**20
    assert options["allowed_paths"] == []
    assert not any(options[name] for name in ("share", "enable_monitoring", "mcp_server", "pwa"))
    assert not re.search("@import|url\\(['\"]?http", options["theme"]._get_theme_css())
    assert options["theme"]._stylesheets == []


def test_the_function_of_the_page_answers_step_by_step(explainer, picture):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from bcos_cli.serve.page import PREDICTED, explain_upload

    steps = list(
        explain_upload(explainer, str(picture()), "run", PREDICTED, PREDICTED, ["gradcam", "bcos"], "side by side")
    )
    assert len(steps) == 3  # predictions, bcos, gradcam
    prediction = explainer.predict(picture(), "run")
    assert [k for _, k in steps[0][0].choices] == list(prediction.order)
    assert steps[0][0].value == prediction.order[0]
    middle, last = Figures(steps[1][1]), Figures(steps[2][1])
    assert (len(middle.of("map")), "working …" in middle.text) == (1, True)
    assert (len(last.of("map")), "working …" in last.text) == (2, False)
    ((_, html),) = explain_upload(explainer, None, "run", PREDICTED, PREDICTED, ["bcos"], "overlay")
    assert "Drop an image" in html
    Path("junk.png").write_bytes(b"junk")
    ((_, html),) = explain_upload(explainer, "junk.png", "run", PREDICTED, PREDICTED, ["bcos"], "overlay")
    assert html.startswith('<p class="bcos-problem" role="alert">junk.png: cannot be read: this is no image')
    _, (_, html) = explain_upload(explainer, str(picture()), "run", 0, PREDICTED, [], "overlay")
    assert "no method is chosen; tick one" in html


def test_a_request_stops_when_the_same_visitor_asks_again(explainer, picture):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from bcos_cli.serve.page import PREDICTED, Visitor, respond

    asked = (str(picture()), "run", PREDICTED, PREDICTED, ["bcos", "gradcam", "gradient"], "side by side")
    visitor, other = Visitor(), Visitor()
    first = respond(explainer, visitor, *asked)
    next(first)
    next(first)
    assert len(list(respond(explainer, other, *asked))) == 5  # predictions, three methods, nothing
    assert len(list(respond(explainer, visitor, *asked))) == 5
    left = list(first)
    assert len(left) == 1
    assert not any(isinstance(update, str) for update in left[0])


def test_a_missing_gradio_is_one_line_that_says_what_to_install(run, bcos, line, monkeypatch):
    monkeypatch.setattr("bcos_cli.serve.server.find_spec", lambda name: None)
    message = line(bcos("serve", run))
    assert (
        message == "bcos: bcos serve needs gradio, which is not installed; get it with: pip install 'bcos-cli[serve]'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' is neither a run's folder"),
        (["run", "--method", "gradcan"], "gradcam"),
        (["run", "--host", "no.such.host.invalid"], "there is no host"),
        (["run", "resnet18", "--weights", "a.safetensors"], "--weights goes with one model"),
        (["run", "--port", "70000"], "65535"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_served(arguments, message, run, bcos, line):
    pytest.importorskip("gradio", reason="gradio is not installed")
    assert message in line(bcos("serve", *arguments))


def test_a_slow_method_keeps_nobody_waiting_who_asks_for_another(explainer, picture, monkeypatch):
    started, finish = Event(), Event()

    def slow(model, x, target=None):
        started.set()
        assert finish.wait(60)
        return torch.ones(1, 16, 16)

    monkeypatch.setattr(
        "bcos_explain.batch.get_explainer", lambda name: slow if name == "rise" else get_explainer(name)
    )
    prediction = explainer.predict(picture(), "run")
    rise = prediction.network.queue("rise")
    first, second = (
        Thread(target=explainer.explain, args=(prediction, ClassTarget(k), "rise"), daemon=True) for k in (0, 1)
    )
    first.start()
    assert started.wait(60)
    assert rise.outlook == "waiting for 1 earlier request for this method …"
    other = explainer.predict(picture("other.png", seed=1), "run")
    assert explainer.explain(other, ClassTarget(0), "bcos").explanations[0].exact  # while the first still works
    second.start()
    html = results(other, ClassTarget(0), "other.png", {"rise": None})
    assert re.search(r"waiting for [12] earlier requests? for this method", html)
    finish.set()
    first.join(60)
    second.join(60)
    assert rise.requests == []


def test_the_wait_is_told_once_it_is_known():
    queue = Queue(seconds=20.6)
    assert queue.outlook == "working …, about 21 s"
    with queue.turn():
        assert queue.outlook == "waiting for 1 earlier request for this method …, about 41 s"
    assert queue.outlook == "working …"  # the latest took no time
    with pytest.raises(ZeroDivisionError), queue.turn():
        _ = 1 / 0
    assert queue.requests == []


def test_one_class_is_compared_with_another(run, explainer, picture):
    prediction = explainer.predict(picture(), "run")
    target = prediction.target(0, 1)
    page = Figures(results(prediction, target, "noise.png", {"bcos": explainer.explain(prediction, target, "bcos")}))
    a, b = (exactly(run, picture(), k) for k in (0, 1))
    (figure,) = page.of("map")
    np.testing.assert_allclose(array_of(figure), (a.map - b.map)[0].numpy(), rtol=1e-3, atol=1e-6)
    assert figure["data-file"] == "noise.0-not-1.bcos.npy"
    assert "rows, not columns" in page.text
    assert "difference of logits" in page.text
    with pytest.raises(UnexplainedError, match="cannot be compared with itself; choose another one, or none"):
        explainer.explain(prediction, prediction.target(1, 1), "bcos")


def test_every_picture_can_be_saved(explainer, picture):
    page = shown(explainer, picture())
    names = [a["data-png"] for tag, a in page.elements if tag == "button" and "data-png" in a]
    predicted = explainer.predict(picture(), "run").order[0]
    assert names == ["noise.input.png", f"noise.{predicted}.bcos.W.png", f"noise.{predicted}.bcos.png"]


def test_what_a_crop_leaves_out_is_on_the_page(explainer, picture):
    assert "squeezed to a square" in shown(explainer, picture()).text


def test_probabilities_that_do_not_add_up_are_explained(explainer, picture):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from bcos_cli.serve.page import PREDICTED, explain_upload

    prediction = explainer.predict(picture(), "run")
    (top, _), *_ = explain_upload(explainer, str(picture()), "run", PREDICTED, PREDICTED, ["bcos"], "overlay")
    total = f"{100 * sum(prediction.probabilities):.1f} %"
    assert top.info == f"each class is judged on its own: all together have {total}"
    assert sum_note([0.25, 0.75]) is None


def test_examples_are_the_images_that_a_user_names(picture, tmp_path):
    picture("a.png")
    picture("b.jpg", seed=1)
    examples = named_examples([str(tmp_path / "*.*g")])
    assert [(e.name, e.content) for e in examples] == [(n, (tmp_path / n).read_bytes()) for n in ("a.png", "b.jpg")]
    buttons = [a for tag, a in Figures(examples_html(examples)).elements if tag == "button"]
    assert [a["data-file"] for a in buttons] == ["a.png", "b.jpg"]
    picture("c.tif")
    with pytest.raises(BcosError, match=r"the example '.*c\.tif': cannot be read"):
        named_examples([str(tmp_path / "c.tif")])
    picture("d.png", size=(700, 700))
    with pytest.raises(BcosError, match=r"d\.png' has more than 1 MB, which every page would load; make it smaller"):
        named_examples([str(tmp_path / "d.png")])


def test_examples_of_a_run_are_its_test_images(recipe, shards, tmp_path, capsys):
    chosen = recipe()
    trained = build(chosen, load_index(shards).classes)
    folder = tmp_path / "trained"
    trained.save(folder / "model.safetensors")
    (folder / "config.yaml").write_text(dump_recipe(chosen), encoding="utf-8")
    examples = run_examples(str(folder), trained)
    index = load_index(shards)
    found = images_at(shards, index, "test", trained.input, range(7))
    assert [e.name for e in examples] == [f"test-{position}.png" for position in range(7)]
    for example, (image, (label,)) in zip(examples, found.values(), strict=True):
        assert example.title == index.classes[label]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(example.content)))[..., 0], image[0].numpy())
    gone = chosen.model_copy(update={"data": chosen.data.model_copy(update={"path": str(tmp_path / "gone")})})
    (folder / "config.yaml").write_text(dump_recipe(gone), encoding="utf-8")
    assert run_examples(str(folder), trained) == []
    assert "no example images: " in capsys.readouterr().err
    assert run_examples("resnet18", trained) == []
