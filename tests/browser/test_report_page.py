"""The report in a browser: what its script does, and how it looks in numbers."""

import numpy as np
import pytest
import torch

from bcos_core.receipt import Receipt
from bcos_explain.metrics import MetricResult
from bcos_explain.report import (
    Confusion,
    GalleryItem,
    MetricScores,
    NeuronItem,
    NeuronRow,
    ReportData,
    Table,
    write_report,
)

EVIL = '"><script>window.hacked=1</script><img src=x onerror="window.hacked=1"> & \'more\''
CLASSES = ["cat", "dog", EVIL]
PAIRS = [(0, 0, 0.9), (0, 1, 0.6), (1, 1, 0.8), (1, 1, 0.4), (2, 2, 0.95), (2, 0, 0.55)]
"""True class, predicted class and confidence of the explained images."""


GRIDS = {"cluster": 4, "chance": 0.25, "higher_is_better": True}


def result(scores, **options):
    return MetricResult(scores=torch.tensor(scores), **options)


def pictures(rng, size):
    return {"input": rng.random((*size, 3)), "explanation": rng.random((*size, 4)), "map": rng.normal(size=size)}


def shot(rng, number, truth, predicted, confidence):
    size = (16, 24) if number else (128, 128)
    return GalleryItem(
        **pictures(rng, size),
        true_class=CLASSES[truth],
        predicted_class=CLASSES[predicted],
        confidence=confidence,
        receipt=Receipt(
            score=float(10 - number),
            contributions=9.0 - number,
            absolute=12.0,
            bias=1.0,
            terms={f"network.{EVIL}.bias": 0.75},
            residual=0.0,
            allowed=1e-5,
        ),
        baselines={"gradcam": rng.random(size), EVIL: rng.random(size)},
        name=f"file {number}",
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    rng = np.random.default_rng(0)
    neurons = [NeuronItem(**pictures(rng, (12, 12)), score=9.0 - k, label=f"{EVIL} {k}") for k in range(5)]
    speeds = [("ten 10", 10.5), ("ten 9", 100.25), (EVIL, None), ("ten 100", 9.0)]
    deletion = {name: result(rng.random(9), higher_is_better=True) for name in "ab"}
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        ReportData(
            title=f"Report {EVIL}",
            headline={f"top-1 {EVIL}": "78.1 %", "GridPG": "98.3 %"},
            summary={f"Model {EVIL}": {"a_very_long_name_" * 4: "value_" * 30}},
            curves=[{"epoch": e, "train_loss": 1 / e, "test_top1": 1 - 0.5 / e} for e in range(1, 6)],
            confusion=Confusion([[5, 1, 0], [0, 7, 2], [1, 0, 4]], CLASSES),
            gallery=[shot(rng, number, *pair) for number, pair in enumerate(PAIRS)],
            neurons=[NeuronRow(layer=f"layer3.{EVIL}", channel=4, items=neurons)],
            gridpg={
                "gradcam": result(rng.random(40), **GRIDS),
                "bcos": result(rng.random(40) / 2 + 0.5, **GRIDS),
                f"explainer {EVIL}": result(rng.random(40), **GRIDS),
            },
            metrics=[MetricScores(title=f"Deletion {EVIL}", results=deletion)],
            tables=[Table(title=f"Speed {EVIL}", columns=("network", f"per second {EVIL}"), rows=speeds)],
            notes=[f"note {EVIL}"],
        ),
    )
    return path.as_uri()


@pytest.fixture
def visit(browser, report):
    """Open the report; afterwards nothing may have gone wrong, and nothing else may have been asked for."""
    contexts, problems, requests = [], [], []

    def open_page(fragment="", **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems
    assert {url.split("#")[0] for url in requests if not url.startswith("data:")} <= {report}


def shown(page):
    """Numbers of the images that the gallery shows, in order."""
    names = page.locator(".shot:not([hidden]) .name").all_text_contents()
    return [int(name.removeprefix("file ")) for name in names]


def choose(page, field, value):
    page.select_option(f".filters [name={field}]", value)


def column(page, number):
    return page.locator(f"#tables table tbody td:nth-child({number})").all_inner_texts()


def test_page_opens_without_complaints_and_loads_nothing(visit):
    page = visit()
    assert page.title() == f"Report {EVIL}"
    assert shown(page) == [0, 1, 2, 3, 4, 5]
    page.mouse.wheel(0, 20_000)
    page.wait_for_function(
        "[...document.images].filter((i) => i.currentSrc).every((i) => i.complete && i.naturalWidth > 0)"
    )


def test_hostile_names_stay_text(visit):
    page = visit()
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("img:not([src^='data:image/webp']):not(.large)").count() == 0
    assert page.locator("h1").inner_text() == f"Report {EVIL}"
    choose(page, "class", EVIL)
    assert shown(page) == [4, 5]
    page.locator(".shot:not([hidden]) img").nth(4).click()
    assert EVIL in page.locator("#lightbox .caption").inner_text()
    assert page.evaluate("window.hacked") is None


def test_a_script_that_got_in_would_not_run(browser, report):
    page = browser.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(report)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    assert page.evaluate("window.hacked") is None
    assert "Content Security Policy" in refused[0]
    page.context.close()


def test_each_field_of_the_form_does_what_it_says(visit):
    page = visit()
    for field, value, expected in (
        ("class", "cat", [0, 1]),
        ("predicted", "cat", [0, 5]),
        ("right", "yes", [0, 2, 3, 4]),
        ("right", "no", [1, 5]),
        ("sort", "confidence-down", [4, 0, 2, 1, 5, 3]),
        ("sort", "confidence-up", [3, 5, 1, 2, 0, 4]),
        ("sort", "logit-down", [0, 1, 2, 3, 4, 5]),
        ("sort", "logit-up", [5, 4, 3, 2, 1, 0]),
    ):
        choose(page, field, value)
        assert shown(page) == expected, (field, value)
        assert page.locator("[name=shown]").inner_text() == f"{len(expected)} of 6"
        page.click("[name=all]")
        assert shown(page) == [0, 1, 2, 3, 4, 5]


def test_filters_work_together(visit):
    page = visit()
    page.fill("[name=text]", "DOG file")
    assert shown(page) == [1, 2, 3]
    page.locator("[name=confidence]").fill("60")
    assert shown(page) == [1, 2]
    assert page.locator("[name=least]").inner_text() == "60 %"
    choose(page, "right", "no")
    assert shown(page) == [1]
    choose(page, "class", "dog")
    assert shown(page) == []
    assert page.locator("text=No image fits these filters.").is_visible()


def test_the_address_keeps_what_is_shown(visit):
    page = visit()
    choose(page, "class", EVIL)
    choose(page, "sort", "confidence-up")
    page.locator("[name=confidence]").fill("50")
    page.fill("[name=text]", "file #5&")
    address = page.evaluate("location.hash")
    page.fill("[name=text]", "")
    again = visit(page.evaluate("location.hash"))
    assert shown(again) == [5, 4]
    assert again.locator("[name=class]").input_value() == EVIL
    assert visit(address).locator("[name=text]").input_value() == "file #5&"


def test_addresses_of_other_reports_do_no_harm(visit):
    assert shown(visit("#class=zebra&confidence=x&sort=nothing&right=maybe&other=1")) == [0, 1, 2, 3, 4, 5]
    assert shown(visit("#training")) == [0, 1, 2, 3, 4, 5]


def test_a_count_of_the_confusion_matrix_leads_to_its_images(visit):
    page = visit()
    page.locator(".confusion tbody tr").nth(0).locator("td a").nth(1).click()
    page.locator("[name=shown]", has_text="1 of 6").wait_for()
    assert shown(page) == [1]


def test_tables_are_sorted_by_a_click_on_a_heading(visit):
    page = visit()
    name, speed = page.locator("#tables th button").all()
    speed.click()
    assert column(page, 2) == ["100.2", "10.5", "9.0", ""]  # numbers: the largest first, none last
    speed.click()
    assert column(page, 2) == ["9.0", "10.5", "100.2", ""]
    name.click()
    assert column(page, 1) == [EVIL, "ten 9", "ten 10", "ten 100"]
    assert [th.get_attribute("aria-sort") for th in page.locator("#tables th").all()] == ["ascending", None]


def test_tables_are_sorted_by_the_keyboard(visit):
    page = visit()
    heading = page.locator("#metric-1 th button").nth(1)
    heading.focus()
    page.keyboard.press("Enter")
    means = page.locator("#metric-1 tbody td:nth-child(2)").all_inner_texts()
    assert means == sorted(means, reverse=True)
    page.keyboard.press("Space")
    assert page.locator("#metric-1 th").nth(1).get_attribute("aria-sort") == "ascending"
    assert page.locator("#metric-1 tbody td:nth-child(2)").all_inner_texts() == sorted(means)


def test_tables_of_two_rows_have_no_buttons(visit):
    assert visit().locator("#metric-2 th button").count() == 0


def test_enlarged_pictures_are_walked_through_by_keys(visit):
    page = visit("#right=no")
    page.locator(".shot:not([hidden]) img").first.click()
    box, position = page.locator("#lightbox"), page.locator("#lightbox .position")
    assert position.inner_text() == "1 / 10"  # two images of five pictures each
    assert "original · ✗ dog 60.0 %, truly cat · logit 9.00" in box.locator(".caption").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "contributions (scale ±" in box.locator(".caption").inner_text()
    page.keyboard.press("ArrowDown")
    assert position.inner_text() == "8 / 10"
    page.keyboard.press("ArrowUp")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert position.inner_text() == "10 / 10"
    page.keyboard.press("Escape")
    assert not box.is_visible()


def test_enlarged_pictures_are_walked_through_by_clicks(visit):
    page = visit()
    page.locator(".neuron img").nth(1).click()
    box, position = page.locator("#lightbox"), page.locator("#lightbox .position")
    assert position.inner_text() == "2 / 15"
    page.click("[name=next]")
    assert position.inner_text() == "3 / 15"
    page.click("[name=previous]")
    page.locator("#lightbox .thumbs button").first.click()
    assert position.inner_text() == "1 / 15"
    page.click("[name=close]")
    assert not box.is_visible()


def test_pictures_are_enlarged_by_the_keyboard(visit):
    page = visit()
    page.locator(".shot img").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#lightbox").is_visible()


def test_small_pictures_are_enlarged_without_blur(visit):
    page = visit()
    for number, rendering, aspect in ((0, "auto", 1.0), (1, "pixelated", 1.5)):
        page.locator(".shot").nth(number).locator("img").first.click()
        large = page.locator("#lightbox .large")
        assert large.evaluate("e => getComputedStyle(e).imageRendering") == rendering
        place = large.bounding_box()
        assert place["height"] > 400
        assert place["width"] / place["height"] == pytest.approx(aspect, rel=0.02)
        page.keyboard.press("Escape")


def test_no_width_makes_the_page_scroll_sideways(visit):
    page = visit()
    for summary in page.locator("summary").all():
        summary.click()
    for width in (320, 390, 768, 900, 1200):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_is_dark_in_the_dark(visit):
    page = visit()
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 22, 28)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour


CONTRAST = """() => {
  const parse = (colour) => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = ([r, g, b, a], below) => [r, g, b].map((v, i) => a * v + (1 - a) * below[i]);
  const background = (e) => {
    if (!e) return [255, 255, 255];
    const colour = parse(getComputedStyle(e).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, background(e.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll("body *:not(script):not(svg *):not(option)")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.checkVisibility())
    .map((e) => {
      const below = background(e);
      const [a, b] = [light(over(parse(getComputedStyle(e).color), below)), light(below)].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), `${e.tagName} ${e.className} ${e.textContent.slice(0, 30)}`];
    });
}"""
"""Contrast of every text with what is behind it, as WCAG 2 defines it."""


def test_every_text_has_enough_contrast(visit):
    page = visit()
    for summary in page.locator("summary").all():
        summary.click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        texts = page.evaluate(CONTRAST)
        assert len(texts) > 200
        assert [what for ratio, what in texts if ratio < 4.5] == []


def test_nothing_moves_for_those_who_asked_for_that(visit):
    page = visit()
    for wish, behaviour in (("no-preference", "smooth"), ("reduce", "auto")):
        page.emulate_media(reduced_motion=wish)
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_without_scripts_everything_is_there(visit):
    page = visit(java_script_enabled=False)
    assert not page.locator(".filters").is_visible()
    assert page.locator(".shot").count() == 6
    assert page.locator(".shot .receipt summary").first.is_visible()
    page.locator(".receipt summary").first.click()
    assert page.locator(".receipt table").first.is_visible()


def test_paper_has_no_controls(visit):
    page = visit()
    page.emulate_media(media="print")
    for controls in ("nav", ".filters"):
        assert not page.locator(controls).is_visible()
    assert page.locator(".shot").first.is_visible()
