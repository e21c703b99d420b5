import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bcos_core import BcosError
from bcos_explain.render import contribution_rgb, symmetric_limit
from bcos_explain.report import Confusion, GalleryItem, ReportData, render_report, write_report

EVIL = "<script>alert(\"x\")</script> & 'more'"
VOID = {"meta", "img", "br", "link", "input", "hr"}


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
        self.text += data

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def item(rng, truth="cat", predicted="cat", size=(8, 10)):
    return GalleryItem(
        input=rng.random((*size, 3)),
        explanation=rng.random((*size, 4)),
        map=rng.normal(size=size),
        true_class=truth,
        predicted_class=predicted,
        confidence=0.912,
        logit=-1.5,
        bias=-2.25,
    )


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
        gridpg={"bcos": [0.9, 0.8, 1.0], f"other {EVIL}": [0.3, 0.2, 0.25]},
        notes=[f"note {EVIL}"],
    )


@pytest.fixture
def page(data):
    return Page(render_report(data))


def test_nothing_is_loaded_and_nothing_runs(data, page):
    html = render_report(data)
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", html)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    assert not [k for _, a in page.elements for k in a if k.startswith("on")]
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#"))


def test_every_text_is_escaped(data, page):
    assert "<script" not in render_report(data)
    for start in ("Title", "Model", "name", "value", "note", "other", "dog", "truly dog"):
        assert f"{start} {EVIL}" in page.text
    assert "<script" in page.all("img")[6]["alt"]  # as an attribute's value


def test_every_picture_is_there(data, page):
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(a["src"].split(",")[1])))) / 255 for a in page.all("img")
    ]
    assert len(images) == 9
    limit = symmetric_limit(np.stack([i.map for i in data.gallery]))
    ordered = [data.gallery[0], data.gallery[2], data.gallery[1]]  # by class
    for i, shown in enumerate(ordered):
        expected = (shown.input, shown.explanation, contribution_rgb(shown.map, limit=limit))
        for image, wanted in zip(images[3 * i : 3 * i + 3], expected, strict=True):
            np.testing.assert_allclose(image, wanted, atol=0.5 / 255 + 1e-9)
    assert f"+{limit:.3g}" in page.text
    assert all(a["alt"] for a in page.all("img"))


def test_wrong_predictions_are_marked(page):
    assert len(page.all("figure", **{"class": "shot wrong"})) == 2
    assert len(page.all("figure", **{"class": "shot"})) == 1
    assert page.text.count("✗") == 2
    assert "✓ cat" in page.text


def test_logit_is_shown_as_contributions_and_bias(page):
    assert "logit −1.50 = contributions 0.75 + bias −2.25" in page.text
    assert "91.2 %" in page.text


def test_curves_and_scores_are_drawn(page):
    drawings = [a["aria-label"] for a in page.all("svg")]
    assert drawings == [
        "loss over epochs",
        "accuracy (top-1) over epochs",
        "learning rate over epochs",
        "Box plot of the scores of each explainer",
    ]
    assert "chance" in page.text
    assert "0.900" in page.text
    assert "0.250" in page.text


def test_ids_are_unique_and_references_inside_drawings_exist(data, page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#([\w-]+)', render_report(data))
    assert set(references) <= set(ids)


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
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))))
    assert picture.shape == (480, 480, 3)
    assert (picture[16 * 3, 16 * 17] < 255).any()
    assert (picture[0, 16 * 17] == 255).all()
    assert len(page.all("tr")) == 2  # one confusion below the heading
    assert "class 17" in page.text


def test_parts_without_data_are_left_out():
    page = Page(render_report(ReportData(title="empty")))
    assert not page.all("section")
    assert not page.all("svg")
    assert not page.all("a")


def test_missing_and_infinite_values_leave_gaps():
    curves = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": float("nan"), "test_top1": None}]
    page = Page(render_report(ReportData(title="t", curves=curves, gridpg={"none": [], "one": [0.5]})))
    assert [a["aria-label"] for a in page.all("svg")] == [
        "loss over epochs",
        "Box plot of the scores of each explainer",
    ]


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
    with pytest.raises(BcosError, match=r"got \(4, 4, 3\), \(4, 4, 3\) and \(4, 4\)"):
        GalleryItem(
            input=np.zeros((4, 4, 3)), explanation=np.zeros((4, 4, 3)), map=np.zeros((4, 4)),
            true_class="a", predicted_class="a", confidence=1.0, logit=0.0, bias=0.0,
        )  # fmt: skip
