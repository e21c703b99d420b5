import base64
import hashlib
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_core import BcosError
from bcos_core.receipt import Receipt
from bcos_explain.explainers.remarks import Remark
from bcos_explain.metrics import MetricResult
from bcos_explain.render import contribution_rgb, symmetric_limit
from bcos_explain.report import (
    Confusion,
    GalleryItem,
    MetricScores,
    NeuronItem,
    NeuronRow,
    ReportData,
    Table,
    render_report,
    write_report,
)

EVIL = "<script>alert(\"x\")</script> & 'more'"
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; checks that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def receipt(score, contributions, bias, **terms):
    return Receipt(
        score=score,
        contributions=contributions,
        absolute=4.0,
        bias=bias,
        terms=terms,
        residual=score - contributions - bias,
        allowed=1e-6,
    )


def item(rng, truth="cat", predicted="cat", size=(8, 10), **options):
    values = {
        "input": rng.random((*size, 3)),
        "explanation": rng.random((*size, 4)),
        "map": rng.normal(size=size),
        "true_class": truth,
        "predicted_class": predicted,
        "confidence": 0.912,
        "receipt": receipt(score=-1.5, contributions=0.5, bias=-2.25),
    }
    return GalleryItem(**values | options)


def pixels(attributes):
    """The picture in [0, 1] that an <img> shows."""
    kind, content = attributes["src"].split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) / 255


def premultiplied(picture):
    return picture[..., :3] * picture[..., 3:] if picture.shape[2] == 4 else picture


GRIDS = {"cluster": 4, "chance": 0.25, "higher_is_better": True}


def result(scores, **options):
    return MetricResult(scores=torch.tensor(scores, dtype=torch.float64), **options)


def page_of(**parts):
    return Page(render_report(ReportData(title="t", **parts)))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return ReportData(
        title=f"Title {EVIL}",
        summary={f"Model {EVIL}": {f"name {EVIL}": f"value {EVIL}", "parameters": 12345}},
        curves=[
            {"epoch": e, "train_loss": 1 / e, "test_loss": 1.1 / e, "test_top1": 1 - 0.5 / e, "lr": 0.001 / e}
            for e in range(1, 6)
        ],
        confusion=Confusion([[5, 1, 0], [0, 7, 2], [0, 0, 4]], ["cat", f"dog {EVIL}", "owl"]),
        gallery=[item(rng), item(rng, f"dog {EVIL}", f"cat {EVIL}"), item(rng, "cat", "owl")],
        gridpg={
            "bcos": result([0.9, 0.8, 1.0, 0.9], **GRIDS),
            f"other {EVIL}": result([0.3, 0.2, 0.25, 0.25], **GRIDS, remarks=(Remark(f"it fell back {EVIL}"),)),
        },
        notes=[f"note {EVIL}"],
    )


@pytest.fixture
def page(data):
    return Page(render_report(data))


def test_nothing_is_loaded(data, page):
    html = render_report(data)
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", html)
    assert not page.all("link")
    assert not page.all("iframe")
    assert not [k for _, a in page.elements for k in a if k.startswith("on")]
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:image/webp;base64,", "#"))


def test_only_the_one_script_of_the_page_may_run(data, page):
    assert len(page.all("script")) == 1
    (script,) = re.findall(r"<script>(.*?)</script>", render_report(data), flags=re.DOTALL)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["content"].split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'",
        "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip


def test_every_text_is_escaped(data, page):
    assert "<script>alert" not in render_report(data)
    for start in ("Title", "Model", "name", "value", "note", "other", "dog", "truly dog"):
        assert f"{start} {EVIL}" in page.text
    assert "<script" in page.all("img")[6]["alt"]  # as an attribute's value


def test_every_picture_is_there(data, page):
    images = [pixels(a) for a in page.all("img") if "src" in a]
    assert len(images) == 9
    limit = symmetric_limit(np.stack([i.map for i in data.gallery]))
    ordered = [data.gallery[0], data.gallery[2], data.gallery[1]]  # by class
    for i, shown in enumerate(ordered):
        expected = (shown.input, shown.explanation, contribution_rgb(shown.map, limit=limit))
        for image, wanted in zip(images[3 * i : 3 * i + 3], expected, strict=True):
            np.testing.assert_allclose(premultiplied(image), premultiplied(wanted), atol=1 / 255)
    assert f"+{limit:.3g}" in page.text
    assert all(a["alt"] for a in page.all("img") if "src" in a)


def test_pictures_wait_until_they_are_seen_and_keep_their_place(page):
    for image in page.all("img", **{"data-label": "original"}):
        assert image["loading"] == "lazy"
        assert image["decoding"] == "async"
        assert (image["width"], image["height"]) == ("10", "8")


def test_each_baseline_has_a_scale_of_its_own():
    rng = np.random.default_rng(1)
    maps = {"gradient": 100 * rng.random((8, 10)), "my_own": -rng.random((8, 10))}
    page = page_of(gallery=[item(rng, baselines=maps), item(rng)])
    for name, values in maps.items():
        (image,) = page.all("img", **{"data-label": name})
        limit = symmetric_limit(values)
        assert image["data-note"] == f"own scale ±{limit:.3g}"
        np.testing.assert_allclose(pixels(image), contribution_rgb(values, limit=limit), atol=0.51 / 255)
        assert f"own scale ±{limit:.3g}" in page.text
    assert "The maps of gradient, my_own" in page.text


@pytest.mark.parametrize("name", ["gradcam", "rise"])
def test_baselines_without_a_sign_start_at_their_smallest_value(name):
    rng = np.random.default_rng(1)
    values = 0.4 + 0.2 * rng.random((8, 10))
    for map in (values, np.full((8, 10), 0.4)):
        (image,) = page_of(gallery=[item(rng, baselines={name: map})]).all("img", **{"data-label": name})
        low, high = map.min(), symmetric_limit(map) + (map.min() == map.max())
        assert image["data-note"] == f"own scale {low:.3g} to {high:.3g}"
        np.testing.assert_allclose(pixels(image), contribution_rgb(map, limit=high, low=low), atol=0.51 / 255)


def test_images_are_shown_by_the_reason_for_which_they_were_chosen():
    rng = np.random.default_rng(1)
    kinds = [("owl", "wrong"), ("cat", "wrong"), ("cat", "typical"), ("owl", "typical"), ("cat", "typical")]
    page = page_of(gallery=[item(rng, truth, reason=why) for truth, why in kinds], gallery_note=f"All 2 {EVIL}")
    shown = [(a["data-class"], a["data-reason"]) for a in page.all("figure")]
    assert shown == [("owl", "wrong"), ("cat", "wrong"), ("owl", "typical"), ("cat", "typical"), ("cat", "typical")]
    assert f"All 2 {EVIL}" in page.text
    assert "typical (3)" in page.text


def test_terms_are_explained():
    page = page_of(terms={f"logit {EVIL}": f"what it is {EVIL}"})
    assert [a["href"] for a in page.all("a")] == ["#terms"]
    assert f"logit {EVIL}" in page.text
    assert f"what it is {EVIL}" in page.text


def test_grey_pictures_of_w_lie_on_grey():
    grey = np.repeat(np.array([1.0, 0.0, 0.0])[None, :, None], 4, axis=2) * np.ones((3, 1, 1))
    grey[:, 1, 3] = 1  # white, black, nothing
    shown = item(np.random.default_rng(0), size=(3, 3), explanation=grey)
    (image,) = page_of(gallery=[shown]).all("img", **{"data-label": "W as colour"})
    np.testing.assert_allclose(pixels(image)[0, :, 0], [1, 0, 0.5], atol=0.01)


def test_wrong_predictions_are_marked(page):
    assert len(page.all("figure", **{"class": "shot wrong"})) == 2
    assert len(page.all("figure", **{"class": "shot"})) == 1
    assert page.text.count("✗ cat") + page.text.count("✗ owl") == 2
    assert "✓ cat" in page.text


def test_receipt_shows_what_is_added_up_and_what_share_comes_from_the_image():
    rng = np.random.default_rng(2)
    shown = item(rng, receipt=receipt(score=2.0, contributions=6.0, bias=-4.0, fc=-3.0, others=-1.0))
    text = page_of(gallery=[shown]).text
    assert "logit 2.00 = 6.00 − 4.00 bias ✓ adds up" in " ".join(text.split())
    assert "image share 60 %" in text
    rows = re.findall(
        r"(logit of the network|contributions of the image|bias, not from the image|fc|others)([−\d.]+)", text
    )
    assert [(name, float(v.replace("−", "-"))) for name, v in rows] == [
        ("logit of the network", 2.0),
        ("contributions of the image", 6.0),
        ("bias, not from the image", -4.0),
        ("fc", -3.0),
        ("others", -1.0),
    ]
    assert "of this score is bias" not in text


def test_receipt_warns_where_most_of_a_score_is_bias():
    shown = item(np.random.default_rng(2), receipt=receipt(score=9.48, contributions=-0.92, bias=10.4))
    text = page_of(gallery=[shown]).text
    assert "✓ adds up" in text
    assert "92 % of this score is bias: it does not come from the image, and the map does not show it" in text


def test_receipt_that_does_not_add_up_says_so(page):
    assert page.text.count("✗ 0.250 missing") == 3
    assert "91.2 %" in page.text


def test_curves_and_scores_are_drawn(page):
    drawings = [a["aria-label"] for a in page.all("svg") if "aria-label" in a]
    assert drawings == [
        "loss over epochs",
        "accuracy (top-1) over epochs",
        "learning rate over epochs",
        "Box plot of bcos",
        f"Box plot of other {EVIL}",
    ]
    assert "dashed: chance, 0.25" in page.text
    assert "0.900" in page.text
    assert "0.250" in page.text


def test_other_metrics_are_shown_like_the_grid_pointing_game():
    scores = {"a": [0.2, 0.4, 0.3], "b": [0.5, 0.9, 0.7], "none": []}
    results = {name: result(values, chance=0.5, higher_is_better=False) for name, values in scores.items()}
    metric = MetricScores(title="Deletion: area", results=results, description="Lower is better.")
    page = page_of(metrics=[metric], gridpg={"a": result([0.5] * 8, **GRIDS)})
    assert [a["href"] for a in page.all("a")] == ["#metric-1", "#metric-2"]
    assert "Lower is better." in page.text
    assert len(page.all("tr", **{"class": "best"})) == 1
    assert "none" not in page.text
    assert len(page.all("svg", **{"class": "strip"})) == 3


def test_tables_hold_any_values():
    rows = [("a", 12.5, 1_000_000, None), ("b", 1.25, -2, True), (f"c {EVIL}", None, 3, "x")]
    page = page_of(tables=[Table(title="Speed", columns=("name", "per second", "n", "rest"), rows=rows, note="Note.")])
    cells = re.findall(r"<td[^>]*>(.*?)</td>", render_report(ReportData(title="t", tables=[
        Table(title="Speed", columns=("name", "per second", "n", "rest"), rows=rows[:2])])))  # fmt: skip
    assert cells == ["a", "12.50", "1,000,000", "", "b", "1.25", "−2", "True"]
    assert f"c {EVIL}" in page.text
    assert "Note." in page.text
    assert [a.get("data-value") for a in page.all("td")][:8] == [
        None, "12.5", "1000000.0", None, None, "1.25", "-2.0", None,
    ]  # fmt: skip
    assert page.all("table", **{"class": "numbers sortable"})


def test_numbers_that_are_undefined_are_called_so_and_sorted_last():
    page = page_of(tables=[Table(title="T", columns=("a",), rows=[(0.5,), (math.nan,), (0.25,)])])
    assert [(a["class"], a["data-value"]) for a in page.all("td")] == [
        ("right", "0.5"),
        ("right", ""),
        ("right", "0.25"),
    ]
    assert "undefined" in page.text
    assert "nan" not in page.text


def test_tables_of_two_rows_need_no_sorting():
    page = page_of(tables=[Table(title="Speed", columns=("a",), rows=[(1,), (2,)])])
    assert page.all("table", **{"class": "numbers"})


def test_neurons_show_their_images_on_one_scale():
    rng = np.random.default_rng(3)
    items = [
        NeuronItem(input=rng.random((6, 6, 3)), explanation=rng.random((6, 6, 4)), map=k * rng.normal(size=(6, 6)),
                   score=9.5 - k, label=f"image {k} {EVIL}")
        for k in (1, 2)
    ]  # fmt: skip
    page = page_of(
        neurons=[NeuronRow(layer="layer3.2", channel=17, items=items), NeuronRow(layer="e", channel=0, items=[])]
    )
    assert "layer3.2, channel 17" in page.text
    assert f"8.50 image 1 {EVIL}" in page.text
    limit = symmetric_limit(np.stack([shown.map for shown in items]))
    maps = [pixels(a) for a in page.all("img", **{"data-label": "contributions"})]
    for picture, shown in zip(maps, items, strict=True):
        np.testing.assert_allclose(picture, contribution_rgb(shown.map, limit=limit), atol=0.51 / 255)


def test_headline_stands_first():
    text = page_of(headline={"top-1": "78.1 %"}, summary={"Model": {"name": "x"}}).text
    assert text.index("78.1 %") < text.index("Model")


def test_ids_are_unique_and_references_inside_drawings_exist(data, page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#([\w-]+)', render_report(data))
    assert set(references) - {"class"} <= set(ids)  # #class=... are states of the gallery


def test_page_suits_phones_and_dark_rooms(data, page):
    html = render_report(data)
    assert "prefers-color-scheme: dark" in html
    assert page.all("meta", name="viewport")
    assert "currentColor" in html
    assert "#010203" not in html


def test_confusion_is_a_table_for_few_classes(page):
    cells = [a for a in page.all("td") if "rgba" in a.get("style", "")]
    assert len(cells) == 5
    assert "19 images, 84.21 % of them right" in page.text


def test_confusion_is_a_picture_for_many_classes():
    counts = np.diag(np.full(30, 9))
    counts[3, 17] = 8
    data = ReportData(title="t", confusion=Confusion(counts, [f"class {i}" for i in range(30)]))
    page = Page(render_report(data))
    (image,) = page.all("img")
    assert "Confusion matrix of 30 classes" in image["alt"]
    picture = pixels(image)
    assert picture.shape == (480, 480, 3)
    assert (picture[16 * 3, 16 * 17] < 1).any()
    assert (picture[0, 16 * 17] == 1).all()
    assert len(page.all("tr")) == 31 + 2  # scores of each class, and one confusion, below headings
    assert "class 17" in page.text


def test_each_class_has_its_recall_and_precision():
    page = page_of(confusion=Confusion([[6, 2, 0], [1, 9, 0], [0, 0, 0]], ["a", "b", "c"]))
    values = [a.get("data-value") for a in page.all("td")][9:]  # after the matrix
    assert values == [
        None, "8.0", "0.75", str(6 / 7), None, "10.0", "0.9", str(9 / 11), None, "0.0", None, None,
        None, None, "2.0", None, None, "1.0",
    ]  # fmt: skip


def test_counts_lead_to_the_images_that_are_there():
    rng = np.random.default_rng(4)
    names = ["a&b", "c=d #"]
    page = page_of(confusion=Confusion([[3, 1], [1, 3]], names), gallery=[item(rng, "a&b", "c=d #")])
    assert [a["href"] for a in page.all("a") if "=" in a["href"]] == ["#class=a%26b&predicted=c%3Dd+%23"]


def test_parts_without_data_are_left_out():
    page = Page(render_report(ReportData(title="empty")))
    assert not page.all("section")
    assert not page.all("svg")
    assert not page.all("a")


def test_missing_and_infinite_values_leave_gaps():
    curves = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": float("nan"), "test_top1": None}]
    page = Page(
        render_report(
            ReportData(
                title="t", curves=curves, gridpg={"none": result([], **GRIDS), "one": result([0.5] * 4, **GRIDS)}
            )
        )
    )
    assert [a["aria-label"] for a in page.all("svg") if "aria-label" in a] == ["loss over epochs", "Box plot of one"]


def test_the_same_data_give_the_same_file(data, tmp_path):
    write_report(tmp_path / "new" / "a.html", data)
    write_report(tmp_path / "new" / "b.html", data)
    a, b = ((tmp_path / "new" / n).read_bytes() for n in ("a.html", "b.html"))
    assert a == b
    assert a.decode() == render_report(data)


def test_a_failed_report_leaves_the_old_one(data, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(path, data)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(BcosError, match=r"must be \(3, 3\), got \(2, 2\)"):
        Confusion([[1, 2], [3, 4]], ["a", "b", "c"])
    rng = np.random.default_rng(0)
    with pytest.raises(BcosError, match=r"got \(4, 4, 3\), \(4, 4, 3\) and \(4, 4\)"):
        item(rng, size=(4, 4), explanation=np.zeros((4, 4, 3)))
    with pytest.raises(BcosError, match=r"'cam' must have the shape of the contributions \(4, 4\), got \(3, 4, 4\)"):
        item(rng, size=(4, 4), baselines={"cam": np.zeros((3, 4, 4))})
    with pytest.raises(BcosError, match=r"an image of a neuron needs input .* got \(4, 4\)"):
        NeuronItem(input=np.zeros((4, 4)), explanation=np.zeros((4, 4, 4)), map=np.zeros((4, 4)), score=1.0)
    with pytest.raises(BcosError, match=r"row 1 of the table 'T' must have 2 cells, got 3; use None"):
        Table(title="T", columns=("a", "b"), rows=[(1, 2), (1, 2, 3)])
    with pytest.raises(BcosError, match=r"scores must be \(M,\) with M a multiple of cluster=4, got shape \(5,\)"):
        result([0.5] * 5, cluster=4)
    with pytest.raises(BcosError, match=r"scores must be finite, or NaN where the metric is undefined"):
        result([float("inf")])
    with pytest.raises(BcosError, match=r"a multiple of cluster=0"):
        result([], cluster=0)
    with pytest.raises(BcosError, match=r"must have values in \[0, 1\], got 0 to 2"):
        render_report(ReportData(title="t", gallery=[item(rng, size=(4, 4), input=np.eye(4)[..., None] * [2, 2, 2])]))
