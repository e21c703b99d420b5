import pytest
import torch
from explained_networks import calibrated

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer
from bcos_explain.metrics import box_masks, energy_inside, energy_pointing_game, energy_pointing_game_masks


def literal_energy(attribution, inside, k=1):
    """Mean filter with zeros outside of the map, positive part, share of the pixels that are inside."""
    height, width = attribution.shape
    r = k // 2
    total = within = 0.0
    for i in range(height):
        for j in range(width):
            near = [
                float(attribution[y, x])
                for y in range(max(i - r, 0), min(i + r + 1, height))
                for x in range(max(j - r, 0), min(j + r + 1, width))
            ]
            value = max(0.0, sum(near) / k**2)
            total += value
            within += value * bool(inside(i, j))
    return within / total


@pytest.mark.parametrize("k", [1, 3])
def test_energy_is_its_definition(k):
    a, masks = torch.randn(3, 6, 7, dtype=torch.float64), torch.rand(3, 6, 7) < 0.4
    shares = energy_inside(a, masks, k)
    for i in range(3):
        assert shares[i].item() == pytest.approx(literal_energy(a[i], lambda y, x, i=i: masks[i, y, x], k))


def test_even_maps_score_the_share_of_the_mask():
    masks = torch.rand(4, 6, 7) < 0.4
    shares = energy_inside(torch.full((4, 6, 7), 0.2), masks)
    torch.testing.assert_close(shares, masks.double().mean((1, 2)))


def test_empty_masks_are_undefined_and_blank_maps_point_nowhere():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1, 0] = True
    shares = energy_inside(torch.stack([torch.ones(4, 4), -torch.ones(4, 4)]), masks)
    assert shares[0].isnan()
    assert shares[1] == 0


def test_boxes_hold_the_pixels_whose_centre_is_inside():
    boxes = [torch.tensor([1.0, 0, 3, 2]), torch.tensor([[0.4, 0.6, 2.5, 9], [3, 0, 4, 1]]), torch.zeros(0, 4)]
    masks = box_masks(boxes, 4, 5)
    for mask, corners in zip(masks, boxes, strict=True):
        for i in range(4):
            for j in range(5):
                expected = any(
                    x0 <= j + 0.5 < x1 and y0 <= i + 0.5 < y1 for x0, y0, x1, y1 in corners.reshape(-1, 4).tolist()
                )
                assert bool(mask[i, j]) == expected


def test_the_game_measures_the_explanation_of_the_target():
    net, _ = calibrated("bcos_rgb")
    images = torch.rand(3, 3, 8, 10)
    boxes = [torch.tensor([2.0, 1, 6, 5]), torch.tensor([[0.0, 0, 3, 3], [5, 5, 9, 8]]), torch.zeros(0, 4)]
    target = torch.tensor([4, 0, 2])
    given = {"target": target, "encode": AddInverse(), "batch_size": 2, "smooth": 3}
    result = energy_pointing_game(net, get_explainer("bcos"), images, boxes, **given)
    maps = get_explainer("bcos")(net, AddInverse()(images), target).sum(1)
    masks = box_masks(boxes, 8, 10)
    torch.testing.assert_close(result.scores, energy_inside(maps, masks, 3), atol=1e-6, rtol=1e-5, equal_nan=True)
    assert (result.count, result.undefined) == (2, 1)
    same = energy_pointing_game_masks(net, get_explainer("bcos"), images, masks, **given)
    assert torch.equal(same.scores.nan_to_num(-1), result.scores.nan_to_num(-1))


def test_mistakes_are_refused():
    net, x = calibrated("plain")
    explainer = get_explainer("gradient")
    with pytest.raises(BcosError, match="got 3 images and boxes of 2"):
        energy_pointing_game(net, explainer, x, [torch.zeros(4)] * 2)
    with pytest.raises(BcosError, match=r"must be \(left, top, right, bottom\), got .* at 1"):
        box_masks([torch.zeros(4), torch.tensor([3.0, 0, 2, 1])], 4, 4)
    with pytest.raises(BcosError, match=r"must be \(B, 4\) or \(4,\), got shape \(3,\) at 0"):
        box_masks([torch.zeros(3)], 4, 4)
    with pytest.raises(BcosError, match=r"masks must be \(3, 12, 16\) .* got \(3, 12, 12\)"):
        energy_pointing_game_masks(net, explainer, x, torch.ones(3, 12, 12, dtype=torch.bool))
    with pytest.raises(BcosError, match=r"must be boolean .* got torch.float32"):
        energy_inside(torch.rand(1, 4, 4), torch.rand(1, 4, 4))
