import dataclasses
import re
from importlib.metadata import EntryPoint

import pytest
import torch

from bcos_core import BcosError, Explanation, display


@pytest.fixture
def images():
    """Two images (2, 2, 1, 3), one target each."""
    x = torch.arange(12.0).reshape(2, 2, 1, 3)
    zeros = torch.zeros(2)
    return Explanation(
        input=x,
        logits=torch.zeros(2, 4),
        target=zeros.long(),
        score=zeros + 7,
        weight=x + 1,
        bias=zeros + 0.5,
    )


def test_contributions_are_weight_times_input(images):
    assert torch.equal(images.contributions, images.input * images.weight)


def test_map_sums_channels(images):
    assert images.map.shape == (2, 1, 3)
    assert images.map[0, 0].tolist() == [0 * 1 + 3 * 4, 1 * 2 + 4 * 5, 2 * 3 + 5 * 6]


def test_residual_is_what_is_missing(images):
    total = sum(i * (i + 1) for i in range(6))
    assert images.residual[0] == 7 - total - 0.5


def test_targets_are_the_second_dimension():
    x, weight = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 3, 4, 5)
    zeros = torch.zeros(2, 6)
    e = Explanation(x, torch.zeros(2, 9), zeros.long(), zeros, weight, zeros)
    assert e.contributions.shape == (2, 6, 3, 4, 5)
    torch.testing.assert_close(e.contributions[1, 4], x[1] * weight[1, 4])
    torch.testing.assert_close(e.map, e.contributions.sum(2))
    torch.testing.assert_close(e.residual, -e.contributions.double().sum((2, 3, 4)))


@pytest.mark.parametrize("targets", [(), (6,)])
def test_map_of_vectors_is_the_contributions(targets):
    x, weight, zeros = torch.rand(2, 3), torch.rand(2, *targets, 3), torch.zeros(2, *targets)
    e = Explanation(x, torch.zeros(2, 9), zeros.long(), zeros, weight, zeros)
    assert torch.equal(e.map, e.contributions)
    assert e.map.shape == (2, *targets, 3)


def test_explanation_is_immutable(images):
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.bias = torch.zeros(2)


def test_bias_terms_are_empty_unless_given(images):
    assert images.bias_terms == {}


@pytest.fixture
def alone(monkeypatch):
    """No package that draws is there."""
    monkeypatch.setattr(display, "entry_points", lambda **_: [])


def test_notebook_shows_a_table_that_adds_up(alone, images):
    html = images._repr_html_()
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    assert re.findall(r"<th>(.*?)</th>", rows[0]) == ["image", "target", "score", "contributions", "bias", "residual"]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows[1:]]
    assert [c[:3] for c in cells] == [["0", "0", "7"], ["1", "0", "7"]]
    for i, (*_, contributions, bias, residual) in enumerate(cells):
        assert float(contributions) == images.contributions[i].sum()
        assert float(bias) == 0.5
        assert float(residual) == pytest.approx(float(images.residual[i]), rel=1e-3)


def test_table_of_many_is_cut(alone):
    x, weight, zeros = torch.rand(9, 3), torch.rand(9, 2, 3), torch.zeros(9, 2)
    html = Explanation(x, torch.zeros(9, 4), zeros.long(), zeros, weight, zeros)._repr_html_()
    assert html.count("<tr>") == 13
    assert "… and 6 more" in html


def test_function_that_an_installed_package_names_draws_it(monkeypatch, images):
    def entry(value):
        monkeypatch.setattr(display, "entry_points", lambda group, name: [EntryPoint(name, value, group)])

    entry("builtins:repr")
    assert images._repr_html_() == images.plot() == repr(images)
    entry("bcos_core.targets:callable")  # a name that is not there
    with pytest.raises(BcosError, match=r"cannot load 'bcos_core.targets:callable'"):
        images._repr_html_()


def test_plot_says_what_is_missing(alone, images):
    with pytest.raises(BcosError, match="no installed package draws explanations; install bcos-explain"):
        images.plot()


def test_text_is_one_short_line(images):
    expected = "Explanation(2 of (2, 1, 3), target=[0, 0], score=[7, 7], bias=[0.5, 0.5])"
    assert repr(images) == expected
    assert repr(images[[0, 1] * 400]).count(",") < 20


def full(n=3):
    """Explanation with every part, two targets each."""
    x, shape = torch.rand(n, 2, 3, 4), (n, 2)
    terms = {"a": torch.rand(shape), "b": torch.rand(shape)}
    optional = {"largest": torch.rand(shape), "dtypes": frozenset([torch.bfloat16]), "probe": torch.rand(shape)}
    weight, scores, target = torch.rand(n, 2, 2, 3, 4), torch.rand(shape), torch.arange(2 * n).reshape(shape)
    return Explanation(x, torch.rand(n, 9), target, scores, weight, terms["a"] + terms["b"], terms, **optional)


@pytest.mark.parametrize("name", [*(f.name for f in dataclasses.fields(Explanation)), "bias_terms.a", "names"])
def test_equal_means_equal_in_every_part(name):
    e = full()
    same = e[:]
    assert e == same
    assert hash(e) == hash(same)
    assert len({e, same}) == 1
    part = getattr(e, name, None)
    if isinstance(part, torch.Tensor):
        other = dataclasses.replace(e, **{name: part + 1})
    elif name == "dtypes":
        other = dataclasses.replace(e, dtypes=None)
    elif name == "names":
        other = dataclasses.replace(e, bias_terms={"a": e.bias_terms["a"], "c": e.bias_terms["b"]})
    else:
        other = dataclasses.replace(e, bias_terms={**e.bias_terms, "a": e.bias_terms["b"]})
    assert e != other
    assert dataclasses.replace(e, probe=None) != e
    assert e != e.score


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor(2), [2]),
    ],
    ids=str,
)
def test_parts_of_a_batch_are_batches(index, chosen):
    e = full()
    part = e[index]
    assert len(part) == len(chosen)
    for name in ("input", "logits", "target", "score", "weight", "bias", "largest", "probe", "map", "residual"):
        assert torch.equal(getattr(part, name), getattr(e, name)[chosen]), name
    assert torch.equal(part.bias_terms["b"], e.bias_terms["b"][chosen])
    assert part.weight.untyped_storage().data_ptr() != e.weight.untyped_storage().data_ptr()


def test_batch_can_be_walked_through_and_ends():
    e = full()
    assert [one.target.tolist() for one in e] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    with pytest.raises(IndexError):
        e[3]
    with pytest.raises(IndexError):
        e[0, 1]


def test_it_moves_to_a_device_with_its_precision():
    e = full()
    moved = e.to("meta")
    assert {t.device.type for t in [moved.input, moved.bias_terms["a"], moved.target, moved.probe]} == {"meta"}
    assert moved.target.dtype == torch.int64
    assert moved != e
    assert e.to(torch.device("cpu")) == e
    with pytest.raises(BcosError, match=r"keeps its precision, got torch.float16; give Explanation.to a device"):
        e.to(torch.float16)


def test_arrays_are_those_of_numpy():
    numpy = pytest.importorskip("numpy")
    e = dataclasses.replace(full(), score=torch.ones(3, 2, dtype=torch.bfloat16))
    arrays = e.numpy()
    assert arrays["map"].shape == (3, 2, 3, 4)
    assert arrays["score"].dtype == numpy.float32
    numpy.testing.assert_array_equal(arrays["contributions"].sum(2), arrays["map"])


def test_what_is_saved_is_loaded(tmp_path, images):
    for e in (full(), images, full()[1]):
        e.save(tmp_path / "new" / "e.pt")
        assert Explanation.load(tmp_path / "new" / "e.pt") == e
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["e.pt"]


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def saved_parts(**changed):
    """What a file of :meth:`Explanation.save` holds."""
    return {**vars(full()), "dtypes": [torch.bfloat16], **changed}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1], "list"),
        ({"input": torch.zeros(1)}, "missing 5 required positional arguments"),
        (saved_parts(more=1), "unexpected keyword argument 'more'"),
        (saved_parts(probe=Harmful()), "it is damaged, or holds more than tensors"),
        (saved_parts(bias_terms=[1]), ""),
        (saved_parts(input=torch.zeros(3, 2, 3, 4).to_sparse()), ""),
        *(
            (saved_parts(**changed), "its parts do not fit each other")
            for changed in (
                {"score": torch.rand(3)},
                {"weight": torch.rand(3, 2, 2, 3, 5)},
                {"bias_terms": {"a": torch.rand(1)}},
                {"dtypes": [1]},
                {"target": torch.full((3, 2), -1)},
                {"target": torch.full((3, 2), 9)},
                {"target": torch.zeros(3, 2)},
                {"target": torch.zeros(3, 2, dtype=torch.bool)},
                {"logits": torch.zeros(3)},
                {"input": torch.zeros(3, 2, 3, 4, device="meta")},
                {"score": torch.zeros(3, 2, dtype=torch.complex64)},
                {"probe": torch.zeros(3, 2, dtype=torch.float8_e5m2)},
                {"bias_terms": {"a": torch.zeros(3, 2, dtype=torch.int64)}},
                {
                    "input": torch.zeros(1).expand(3, 2, 10**6, 10**6),
                    "weight": torch.zeros(1).expand(3, 2, 2, 10**6, 10**6),
                },
            )
        ),
    ],
    ids=range(20),
)
def test_other_files_are_refused_and_run_nothing(content, why, tmp_path, capsys):
    torch.save(content, tmp_path / "e.pt")
    with pytest.raises(BcosError, match=rf"is not a file that Explanation\.save has written: .*{why}"):
        Explanation.load(tmp_path / "e.pt")
    assert capsys.readouterr().out == ""
    torch.save(saved_parts(), tmp_path / "e.pt")
    assert len(Explanation.load(tmp_path / "e.pt")) == 3  # what was changed is what is refused


def test_a_part_of_an_explanation_takes_the_place_of_a_part(tmp_path):
    e = full()
    e.save(tmp_path / "whole.pt")
    e[:1].save(tmp_path / "first.pt")
    assert Explanation.load(tmp_path / "first.pt") == e[:1]
    assert (tmp_path / "first.pt").stat().st_size < (tmp_path / "whole.pt").stat().st_size


def test_files_that_are_damaged_or_missing_are_refused(tmp_path):
    full().save(tmp_path / "e.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "e.pt").read_bytes()[:1000])
    with pytest.raises(BcosError, match=r"half.pt' is not a file that Explanation.save has written"):
        Explanation.load(tmp_path / "half.pt")
    with pytest.raises(BcosError, match=r"cannot read .*none.pt"):
        Explanation.load(tmp_path / "none.pt")
