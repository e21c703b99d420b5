import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from bcos_core import AddInverse, BcosError, Explanation, explain
from bcos_explain.render import contribution_rgb, explanation_html, input_image, symmetric_limit


class Tags(HTMLParser):
    """Opening and closing tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def pictures(html):
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for d in data]


@pytest.fixture
def explanation(colour_net):
    return lambda n, target: explain(colour_net, AddInverse()(torch.rand(n, 3, 12, 16)), target)


def test_notebook_shows_input_explanation_contributions_and_receipt(explanation):
    e = explanation(1, 2)
    html = e._repr_html_()
    shown, _, contributions = pictures(html)
    np.testing.assert_allclose(shown / 255, input_image(e.input[0]), atol=0.5 / 255 + 1e-6)
    limit = symmetric_limit(e.map[0])
    np.testing.assert_allclose(contributions / 255, contribution_rgb(e.map[0], limit=limit), atol=0.5 / 255 + 1e-6)
    assert "target 2" in html
    assert "adds up" in html
    assert f"±{limit:.3g} per pixel" in html


@pytest.mark.parametrize(
    ("n", "target", "count", "note"),
    [
        (3, None, 9, None),
        (6, None, 12, "2 more images"),
        (2, [[0, 1, 2, 3]] * 2, 14, "1 more targets"),
    ],
    ids=["all", "many images", "many targets"],
)
def test_a_few_are_shown_and_the_others_counted(n, target, count, note, explanation):
    html = explanation_html(explanation(n, target))
    assert len(pictures(html)) == count
    assert ("more" in html) == (note is not None)
    assert note is None or note in html
    tags = Tags()
    tags.feed(html)
    assert tags.wrong == tags.open == []
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_names_of_terms_are_escaped(explanation):
    e = explanation(1, 2)
    e.bias_terms["<script>"] = torch.ones(1)
    assert "<script>" not in explanation_html(e)
    assert "&lt;script&gt;" in explanation_html(e)


def test_what_is_no_image_is_a_table():
    x, zeros = torch.rand(2, 3), torch.zeros(2)
    e = Explanation(x, torch.zeros(2, 9), zeros.long(), zeros, x, zeros)
    assert explanation_html(e) is None
    assert e._repr_html_().startswith("<table>")
    with pytest.raises(BcosError, match=r"plot draws images \(N, C, H, W\), got inputs \(2, 3\)"):
        e.plot()


def test_plot_is_saved_by_pyplot(explanation, tmp_path):
    e = explanation(5, [[0, 2]] * 5)
    figure = e.plot()
    assert plt.gcf() is figure
    assert len([axes for axes in figure.axes if axes.images and axes.get_ylabel() == ""]) == 8 + 8 + 4
    assert "1 more images" in figure.get_supxlabel()
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), input_image(e.input[0]))
    limit = symmetric_limit(e.map[0])
    np.testing.assert_allclose(figure.axes[5].images[0].get_array(), e.map[0, 1].clamp(-limit, limit), rtol=1e-6)
    plt.savefig(tmp_path / "figure.png")
    plt.close(figure)
    assert np.asarray(Image.open(tmp_path / "figure.png")).std() > 10
