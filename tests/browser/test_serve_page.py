"""``bcos serve`` in a browser, from the command to Ctrl-C."""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from bcos_cli.config import validate_recipe
from bcos_cli.data.input_image import read_image
from bcos_cli.train.model import build
from bcos_core import explain
from bcos_models import load_trained

pytestmark = pytest.mark.slow
CLASSES = [f"digit {k}" for k in range(9)] + ["<b>nine</b> & {{more}} ${more}"]
SIDE = 8
PATIENCE = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small network that knows digits."""
    torch.manual_seed(0)
    values = {
        "model": {"name": "cifar10_resnet20", "options": {"depths": [1], "width": 16}},
        "data": {"path": "-", "image_size": SIDE, "image_channels": 3, "workers": 0},
        "train": {"epochs": 1, "batch_size": 64},
        "evaluation": {"batch_size": 4},
    }
    trained = build(validate_recipe(values, "of the test"), CLASSES)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)
    optimizer = torch.optim.Adam(trained.model.parameters(), lr=0.02)
    for batch in torch.randperm(len(images)).repeat(12).split(64):
        loss = F.binary_cross_entropy_with_logits(
            trained.model(trained.encode(images[batch])), F.one_hot(labels[batch], 10).float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained.model.eval()
    assert (trained.model(trained.encode(images)).argmax(1) == labels).float().mean() > 0.8
    folder = tmp_path_factory.mktemp("serve") / "digits"
    trained.save(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A seven, in grey."""
    digits = load_digits()
    path = tmp_path_factory.mktemp("images") / "seven.png"
    Image.fromarray((digits.images[digits.target == 7][3] * 15.9).astype(np.uint8)).save(path)
    return path


@contextlib.contextmanager
def served(run, folder, *options):
    """The process and the address of a page."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "bcos_cli",
        "serve",
        str(run),
        "--no-open",
        "--port",
        "0",
        *options,
    ]
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        try:
            with selectors.DefaultSelector() as waiting:
                waiting.register(process.stdout, selectors.EVENT_READ)
                assert waiting.select(PATIENCE), (folder / "errors").read_text()
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, (folder / "errors").read_text()
            yield process, found[0]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def url(run, seven, tmp_path_factory):
    options = ("--max-megabytes", "0.05", "--max-megapixels", "0.1", "--example", str(seven))
    with served(run, tmp_path_factory.mktemp("tmp"), *options) as (_, url):
        yield url


@pytest.fixture
def visit(browser, url):
    """Open the page; afterwards nothing may have gone wrong, and nothing else may have been asked for."""
    contexts, problems, requests = [], [], []

    def complain(message):
        # Gradio asks for the progress of uploads, which may be over by then
        harmless = "upload_progress" in str(message.location) or message.text == "Response"
        if message.type == "error" and not harmless:
            problems.append(message.text)

    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", complain)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.locator("#bcos-shown .bcos-empty").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems
    assert requests
    assert [r for r in requests if not r.startswith((url, "data:", f"blob:{url}"))] == []


def drop(page, path):
    """Give the page a file, instead of one that it may have."""
    remove = page.locator("#bcos-file button[aria-label=Clear]")
    if remove.count():
        remove.click()
    page.set_input_files("#bcos-file input[type=file]", path)


def figure(page, kind="map", number=0):
    return page.locator(f"figure[data-kind={kind}]").nth(number)


def explained(page, text):
    """Wait until this is explained."""
    page.locator(".bcos-headline", has_text=text).wait_for()
    figure(page).wait_for()


def point(page, x, y, kind="map"):
    """Move the mouse to a pixel; return the text below that picture."""
    box = figure(page, kind).locator(".bcos-picture img").bounding_box()
    page.mouse.move(box["x"] + (x + 0.5) / SIDE * box["width"], box["y"] + (y + 0.5) / SIDE * box["height"])
    return figure(page, kind).locator("output").inner_text()


def expected(run, path, target=None):
    trained = load_trained(str(run))
    return explain(trained.model, trained.encode(read_image(path, trained.input).pixels[None]), target)


def read(text, x, y):
    """The number in ``x 1, y 2: +0.1234 logit``."""
    found = re.fullmatch(rf"x {x}, y {y}: ([+−]?[\d.]+(?:e[+−]?\d+)?) logit", text.strip())
    assert found, text
    return float(found[1].replace("−", "-"))


def test_a_dropped_image_is_predicted_and_explained(visit, run, seven):
    page = visit()
    drop(page, seven)
    explained(page, "predicted and explained: digit 7")
    assert page.locator("#bcos-top label").count() == 5
    assert page.locator("#bcos-top label").first.inner_text().startswith("digit 7 · ")
    assert page.locator("#bcos-top input").first.is_checked()
    assert page.locator("figure[data-kind]").count() == 3
    shown = "[...document.querySelectorAll('.bcos-picture img')].map((i) => [i.naturalWidth, i.naturalHeight])"
    assert page.evaluate(shown) == [[SIDE, SIDE]] * 3
    assert "8×8 pixels, 8×8 for the network" in figure(page, "input").inner_text()
    assert "✓ adds up" in page.locator(".bcos-receipt summary").inner_text()
    page.locator(".bcos-receipt summary").click()
    logit = page.locator(".bcos-receipt tr", has_text="logit").first.locator("td").inner_text()
    assert float(logit.replace("−", "-")) == pytest.approx(float(expected(run, seven).score), abs=0.01)


def test_hovering_reads_the_contribution_of_the_pixel(visit, run, seven):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    map = expected(run, seven).map[0].numpy()
    for x, y in ((0, 0), (3, 2), (4, 5), (7, 7)):
        assert read(point(page, x, y), x, y) == pytest.approx(map[y, x], rel=2e-3, abs=1e-6)
    grey = read_image(seven, load_trained(str(run)).input).pixels[0]
    for x, y in ((3, 1), (7, 0)):
        colour = f"{int(grey[y, x]):02x}" * 3
        assert re.fullmatch(rf"x {x}, y {y}:\s+#{colour}", point(page, x, y, "input").strip())
        assert read(figure(page).locator("output").inner_text(), x, y) == pytest.approx(map[y, x], rel=2e-3, abs=1e-6)


def test_the_keyboard_moves_the_pixel(visit, run, seven):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    map = expected(run, seven).map[0].numpy()
    figure(page).locator(".bcos-picture").focus()
    for key, (x, y) in (("ArrowRight", (4, 4)), ("ArrowRight", (5, 4)), ("ArrowUp", (5, 3)), ("ArrowLeft", (4, 3))):
        page.keyboard.press(key)
        text = figure(page).locator("output").inner_text()
        assert read(text, x, y) == pytest.approx(map[y, x], rel=2e-3, abs=1e-6)


def test_another_class_is_explained_by_choice(visit, run, seven):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    page.get_by_label("explained class").fill("nine")  # searched for
    page.get_by_role("option").filter(has_text="nine").click()
    explained(page, f"explained: {CLASSES[9]}")
    assert page.locator(".bcos-headline b").count() == 0
    map = expected(run, seven, 9).map[0].numpy()
    assert read(point(page, 3, 2), 3, 2) == pytest.approx(map[2, 3], rel=2e-3, abs=1e-6)
    second = page.locator("#bcos-top label").nth(1)
    name = second.inner_text().split(" · ")[0]
    second.click()
    explained(page, f"explained: {name}")
    map = expected(run, seven, CLASSES.index(name)).map[0].numpy()
    assert read(point(page, 3, 2), 3, 2) == pytest.approx(map[2, 3], rel=2e-3, abs=1e-6)


def test_methods_and_layout_are_chosen(visit, seven):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    for method in ("gradcam", "attention_rollout"):
        page.locator("#bcos-methods").get_by_label(method, exact=True).check()
    figure(page, number=1).wait_for()
    assert "gradcam" in figure(page, number=1).inner_text()
    problem = page.locator(".bcos-problem")
    problem.wait_for()
    assert problem.inner_text().startswith("attention_rollout: ")
    assert "Traceback" not in page.content()
    before = figure(page).locator(".bcos-picture img").get_attribute("src")
    page.locator("#bcos-layout").get_by_label("overlay").check()
    page.wait_for_function("(src) => document.querySelector('[data-kind=map] img')?.src !== src", arg=before)


def test_the_array_that_is_saved_is_the_map(visit, run, seven, tmp_path):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    with page.expect_download() as download:
        figure(page).get_by_text("save array").click()
    assert download.value.suggested_filename == "seven.7.bcos.npy"
    download.value.save_as(tmp_path / "saved.npy")
    saved = np.load(tmp_path / "saved.npy", allow_pickle=False)
    np.testing.assert_allclose(saved, expected(run, seven).map[0].numpy(), rtol=1e-3, atol=1e-6)


def test_the_picture_that_is_saved_is_the_one_that_is_shown(visit, seven, tmp_path):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    with page.expect_download() as download:
        figure(page, "input").get_by_text("save picture").click()
    assert download.value.suggested_filename == "seven.input.png"
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as saved, Image.open(seven) as original:
        assert saved.size == (512, 512)
        np.testing.assert_array_equal(np.asarray(saved.convert("L"))[32::64, 32::64], np.asarray(original))


def test_an_example_is_explained_like_a_file_that_was_dropped(visit, seven, tmp_path):
    page = visit()
    page.locator(".bcos-example").click()
    explained(page, "predicted and explained: digit 7")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    drop(page, tmp_path / "black.png")
    page.locator("figcaption", has_text="black.png").wait_for()
    page.locator(".bcos-example").click()  # instead of the other
    page.locator("figcaption", has_text="seven.png").wait_for()


def test_one_class_is_compared_with_another(visit, run, seven):
    page = visit()
    drop(page, seven)
    explained(page, "digit 7")
    page.get_by_label("and not").fill("digit 1")
    page.get_by_role("option").filter(has_text="digit 1").click()
    explained(page, "digit 7, not digit 1")
    map = (expected(run, seven, 7).map - expected(run, seven, 1).map)[0].numpy()
    assert read(point(page, 3, 2), 3, 2) == pytest.approx(map[2, 3], rel=2e-3, abs=1e-6)


def test_what_is_no_image_is_refused_in_one_line_and_the_page_goes_on(visit, seven, tmp_path):
    page = visit()
    (tmp_path / "text.png").write_text("only text")
    Image.new("1", (1000, 1000)).save(tmp_path / "bomb.png")
    for name, message in (("text.png", "this is no image"), ("bomb.png", "at most 0.1 megapixels are decoded")):
        drop(page, tmp_path / name)
        page.locator(".bcos-problem", has_text=name).wait_for()
        assert message in page.locator(".bcos-problem").inner_text()
        assert page.locator("figure").count() == 0
    drop(page, seven)
    explained(page, "digit 7")


def test_large_files_and_other_types_do_not_reach_the_server(visit, tmp_path):
    page = visit()
    (tmp_path / "large.png").write_bytes(bytes(100_000))
    drop(page, tmp_path / "large.png")
    page.locator(".toast-body", has_text="large.png").wait_for()
    (tmp_path / "notes.txt").write_text("only text")
    drop(page, tmp_path / "notes.txt")
    page.locator(".toast-body", has_text="notes.txt").wait_for()


@pytest.mark.parametrize("width", [390, 768])
def test_narrow_pages_do_not_scroll_sideways(width, visit, seven):
    page = visit(viewport={"width": width, "height": 844})
    drop(page, seven)
    explained(page, "digit 7")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    answer, choices = (page.locator(place).bounding_box() for place in (".bcos-headline", "#bcos-methods"))
    assert answer["y"] < 500
    assert choices["y"] > answer["y"] + 300  # the answer first


def test_the_page_is_dark_in_the_dark(visit):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (
        sum(map(int, re.findall(r"\d+", visit(color_scheme=s).evaluate(background))[:3])) for s in ("light", "dark")
    )
    assert light > 600
    assert dark < 150


def status(url, path, **options):
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, **options), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_files_of_the_machine_are_not_served(url, run):
    for path in ("/etc/passwd", run / "model.safetensors"):
        assert status(url, f"gradio_api/file={path}") in (403, 404)


def test_other_pages_cannot_make_a_browser_ask(url):
    form = {"data": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
    own, port = url.rstrip("/"), url.rstrip("/").rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1"):
        assert status(url, "", headers={"Host": host}) == 403
    for host in (f"localhost:{port}", f"[::1]:{port}"):
        assert status(url, "", headers={"Host": host}) == 200
    for sender in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert status(url, "gradio_api/upload", data=form["data"], headers=form["headers"] | sender) == 403
    assert status(url, "gradio_api/upload", data=form["data"], headers=form["headers"] | {"Origin": own}) == 200
    assert status(url, "gradio_api/upload", data=bytes(200_000), headers=form["headers"]) == 413


def test_nothing_but_the_page_itself_may_be_loaded(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "http" not in policy


def ends_within(seconds, process, folder):
    """With status 0; else what its threads were doing."""
    try:
        assert process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait()
        pytest.fail((folder / "errors").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_uploads_are_gone(number, run, seven, browser, tmp_path):
    with served(run, tmp_path) as (process, url):
        page = browser.new_page()
        page.goto(url)
        page.locator("#bcos-shown .bcos-empty").wait_for()
        drop(page, seven)
        explained(page, "digit 7")
        assert list(tmp_path.glob("bcos-serve-*/*/seven.png"))
        page.context.close()
        process.send_signal(number)
        ends_within(20, process, tmp_path)
    assert list(tmp_path.glob("bcos-serve-*")) == []
    assert (tmp_path / "errors").read_text() == ""
