import base64
import io
import itertools
import re
import warnings
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image

from bcos_core import BcosError
from bcos_explain.render import (
    ColorBar,
    Tile,
    WeightPicture,
    contribution_rgb,
    explanation_image,
    grid,
    laid_on,
    picture_bytes,
    save_sheet,
    sheet_bytes,
)
from bcos_explain.render.contributions import bar_picture, ticks
from bcos_explain.render.files import draw
from bcos_explain.render.text import drawable, printable, shortened, width_of

STRANGE = ["$x^2$ and $\\frac", "<b>&amp;\"'", "名前", "\u202eabc\u0000\n\td", "n" * 500, "", "é ñ Ω ✓", "🙂"]


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((8, 8, 3))


def opened(data):
    return Image.open(io.BytesIO(data))


def test_pixels_stay_squares(picture):
    sheet = grid([[Tile(picture)]], side=64)
    (panel,) = sheet.panels
    drawn = np.asarray(draw(sheet))[panel.y : panel.y + 64, panel.x : panel.x + 64]
    expected = np.rint(picture * 255).repeat(8, 0).repeat(8, 1)
    np.testing.assert_array_equal(drawn, expected)


def test_tiles_stand_in_rows_and_columns_without_touching(picture):
    tile = Tile(picture, "title", "subtitle", ColorBar(0.3, "logit"), ["note", "another"])
    sheet = grid([[tile, None, tile], [tile]], side=40, heading="heading", footer=["footer"])
    boxes = [(p.x, p.y, p.x + p.width, p.y + p.height) for p in sheet.panels if p.framed]
    assert [box[0] for box in boxes] == [12, 116, 12]
    assert boxes[0][1] == boxes[1][1] < boxes[2][1]
    every = [(p.x, p.y, p.x + p.width, p.y + p.height) for p in sheet.panels]
    for i, a in enumerate(every):
        assert 0 <= a[0] < a[2] <= sheet.width
        assert 0 <= a[1] < a[3] <= sheet.height
        for b in every[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for label in sheet.labels:
        assert label.y > label.size
        assert label.y < sheet.height


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
@pytest.mark.parametrize("format", ["png", "svg", "webp"])
def test_any_text_is_drawn_inside_of_its_room(text, format, picture):
    tile = Tile(picture, text, text, ColorBar(1.0, text), [text])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = sheet_bytes(grid([[tile]], side=64, heading=text, footer=[text]), format)
    if format == "svg":
        minidom.parseString(data)
    else:
        assert opened(data).width == 64 + 24
    for label in grid([[tile]], side=64, heading=text, footer=[text]).labels:
        assert width_of(label.text, label.size, bold=label.bold) <= 64


def test_text_is_never_mathematics_nor_markup(picture):
    svg = sheet_bytes(grid([[Tile(picture, "$a$ <i>")]], side=224), "svg").decode()
    assert "$a$ &lt;i&gt;" in svg


def test_long_text_ends_in_an_ellipsis_and_short_text_is_left_alone():
    assert shortened("short", 100, 12) == "short"
    cut = shortened("a rather long name of a class", 100, 12)
    assert cut.endswith("…")
    assert "a rather long name of a class".startswith(cut[:-1])
    assert width_of(cut, 12) <= 100
    assert shortened("anything", 1, 12) == "…"


def test_text_is_one_line_without_control_characters():
    assert printable(" a\n\tb\0\x1b[31mc\u202e ") == "a b[31mc"


def test_letters_that_no_font_has_become_boxes():
    shown, path = drawable("a\ue000b")  # of the private use area
    assert shown == "a□b"
    assert path.name == "DejaVuSans.ttf"


@pytest.mark.parametrize(
    ("limit", "wanted", "expected"),
    [
        (0.013, 2, [-0.01, -0.005, 0, 0.005, 0.01]),
        (1.0, 2, [-1, -0.5, 0, 0.5, 1]),
        (0.25, 2, [-0.2, -0.1, 0, 0.1, 0.2]),
        (7.0, 1, [-5, 0, 5]),
    ],
)
def test_ticks_are_round(limit, wanted, expected):
    assert ticks(limit, wanted) == expected


@pytest.mark.parametrize("limit", [1e-12, 3.3e-5, 0.0999, 0.1, 0.1001, 9.99, 12345.6])
@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_ticks_lie_inside_and_are_symmetric(limit, wanted):
    values = ticks(limit, wanted)
    assert values == [-v for v in reversed(values)]
    assert 0 in values
    assert 3 <= len(values) <= 4 * wanted + 1
    assert max(values) <= limit * (1 + 1e-6)
    shown = [(2 * place - 1, float(text.replace("−", "-"))) for place, text in ColorBar(limit, "logit").marks(wanted)]
    assert shown == [(pytest.approx(v / limit, rel=1e-3, abs=1e-9), pytest.approx(v, rel=1e-3)) for v in values]


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_ticks_need_a_limit(limit):
    with pytest.raises(BcosError, match="limit must be positive"):
        ticks(limit)


@pytest.mark.parametrize("side", [16, 64, 128, 224])
@pytest.mark.parametrize("limit", [0.0123, 0.25, 3.0, 1234.0])
def test_numbers_stand_where_their_values_are_and_apart(side, limit, picture):
    sheet = grid([[Tile(picture, bar=ColorBar(limit, "logit"))]], side=side)
    x0 = next(p.x for p in sheet.panels if p.framed)
    numbers = [label for label in sheet.labels if label.text != "logit" and not label.text.endswith("…")]
    assert len(numbers) == len(sheet.lines) >= 2
    for line, label in zip(sheet.lines, numbers, strict=True):
        value = float(label.text.replace("−", "-"))
        assert abs((line.x - x0) - (value / limit + 1) / 2 * (side - 1)) <= 0.5
    if side >= 64:
        spans = []
        for label in numbers:
            wide = width_of(label.text, label.size)
            left = label.x - {"left": 0, "middle": wide / 2, "right": wide}[label.anchor]
            spans.append((left, left + wide))
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
        assert spans[0][0] >= x0 - 0.5
        assert spans[-1][1] <= x0 + side + 0.5


def test_colours_of_the_scale_are_those_of_the_map():
    bar = bar_picture(101, 5, ColorBar(2.0, "logit"))
    for i, value in [(0, -2.0), (25, -1.0), (50, 0.0), (100, 2.0)]:
        expected = contribution_rgb(np.array([[value]]), limit=2.0)[0, 0]
        np.testing.assert_allclose(bar[2, i, :3] / 255, expected, atol=0.02)
    assert (bar[..., 3] == 255).all()


def test_ends_are_pointed_where_values_are_clipped():
    alpha = bar_picture(40, 9, ColorBar(2.0, "logit", clipped=True))[..., 3]
    assert (alpha[4] == 255).all()
    assert alpha[0, 0] == alpha[0, -1] == alpha[-1, 0] == 0
    assert (alpha[:, 10:30] == 255).all()
    np.testing.assert_array_equal(alpha, alpha[:, ::-1])


@pytest.mark.parametrize(("background", "grey"), [("white", 1.0), ("black", 0.0)])
def test_transparent_pictures_lie_on_the_page(background, grey):
    rgba = np.random.default_rng(0).random((6, 7, 4))
    expected = rgba[..., :3] * rgba[..., 3:] + grey * (1 - rgba[..., 3:])
    np.testing.assert_allclose(laid_on(rgba, background) / 255, expected, atol=0.5 / 255 + 1e-9)


def test_checkers_show_through_and_none_stays_transparent():
    clear = np.zeros((32, 32, 4))
    squares = laid_on(clear, "checker")
    assert set(np.unique(squares)) == {217, 255}
    assert (squares[:2, :2] == squares[0, 0]).all()
    assert squares[0, 0, 0] != squares[0, 2, 0]
    assert laid_on(clear, "none").shape == (32, 32, 4)
    sheet = grid([[Tile(clear)]], side=32, background="none")
    drawn = opened(sheet_bytes(sheet, "png"))
    assert drawn.mode == "RGBA"
    assert np.asarray(drawn)[15:20, 20:30, 3].max() == 0


@pytest.mark.parametrize("format", ["png", "webp", "svg"])
@pytest.mark.parametrize("channels", [3, 4])
def test_separate_pictures_keep_pixels_and_transparency(format, channels, picture):
    array = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    if channels == 4:
        array[..., 3] |= 1  # colours under full transparency need not be kept
    data = picture_bytes(array, format, side=12)
    if format == "svg":
        (image,) = minidom.parseString(data).getElementsByTagName("image")
        assert (image.getAttribute("width"), image.getAttribute("height")) == ("12", "15")
        data = base64.b64decode(image.getAttribute("href").partition(",")[2])
        np.testing.assert_array_equal(np.asarray(opened(data)), array)
    else:
        np.testing.assert_array_equal(np.asarray(opened(data)), array.repeat(3, 0).repeat(3, 1))


def test_svg_refers_to_nothing_outside(picture):
    svg = sheet_bytes(grid([[Tile(picture, "t", bar=ColorBar(1, "u"))]], side=64), "svg").decode()
    assert not re.search(r"href=\"(?!data:)", svg)
    assert svg.count("http") == 1  # the name of the format itself


def test_pictures_from_parts_are_the_pictures():
    rng = np.random.default_rng(0)
    x, w = rng.random((6, 20, 20)), rng.normal(size=(6, 20, 20))
    picture = WeightPicture.of(x, w, smooth=5)
    for scale in (0.3, 2.0):
        np.testing.assert_array_equal(picture.rgba(scale), explanation_image(x, w, smooth=5, alpha_scale=scale))
        np.testing.assert_allclose(picture.compact().rgba(scale), picture.rgba(scale), atol=0.6 / 255)
    np.testing.assert_array_equal(picture.rgba(picture.own_scale), explanation_image(x, w, smooth=5))
    assert picture.rgba(None)[..., 3].max() == 0
    with pytest.raises(BcosError, match=r"alpha_scale must be positive, got -1"):
        picture.rgba(-1)


def test_sheets_are_written_whole_in_the_format_of_their_name(picture, tmp_path):
    sheet = grid([[Tile(picture)]], side=32)
    save_sheet(sheet, tmp_path / "new" / "x.WEBP")
    assert opened((tmp_path / "new" / "x.WEBP").read_bytes()).format == "WEBP"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.WEBP"]
    with pytest.raises(BcosError, match="sheets can be png, svg, webp, got 'bmp'"):
        save_sheet(sheet, tmp_path / "x.bmp")


def test_same_sheet_is_the_same_file(picture):
    sheets = [grid([[Tile(picture, "a")]], side=32) for _ in range(2)]
    for format in ("png", "svg", "webp"):
        assert sheet_bytes(sheets[0], format) == sheet_bytes(sheets[1], format)


def test_what_makes_no_sheet_is_refused(picture):
    with pytest.raises(BcosError, match="at least one picture"):
        grid([[None]], side=32)
    with pytest.raises(BcosError, match="at least 16 pixels wide on a sheet, got 8"):
        grid([[Tile(picture)]], side=8)
    with pytest.raises(BcosError, match="background must be one of white, black, checker, none, got 'pink'"):
        grid([[Tile(picture)]], side=32, background="pink")
    with pytest.raises(BcosError, match=r"must be \(h, w, 3\) or \(h, w, 4\), got shape \(8, 8\)"):
        laid_on(picture[..., 0], "white")
    with pytest.raises(BcosError, match="pictures can be png, svg, webp, got 'gif'"):
        picture_bytes(picture, "gif")


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.6), (0.41, 0.63), (-2.0, 5.0), (0.0, 9686.88), (1.0, 1.0001)])
def test_scale_of_a_map_without_a_sign_starts_at_its_smallest_value(low, high):
    marks = ColorBar(high, "not exact", low=low).marks()
    assert len(marks) >= 2
    for place, text in marks:
        assert 0 <= place <= 1
        assert float(text.replace("−", "-")) == pytest.approx(low + place * (high - low), rel=1e-3, abs=1e-9)
    bar = bar_picture(101, 9, ColorBar(high, "", clipped=True, low=low))
    expected = contribution_rgb(np.array([[low, (low + high) / 2, high]]), limit=high, low=low)[0]
    np.testing.assert_allclose(bar[4, [0, 50, 100], :3] / 255, expected, atol=0.02)
    assert (bar[0, 0, 3], bar[0, -1, 3]) == (255, 0)  # no value lies below
