import pytest
import torch

from bcos_cli.explain.targets import class_text, slugs, target_choice, target_text
from bcos_core import BcosError
from bcos_explain import ClassTarget

CLASSES = ["cat", "dog", "a:b", "b", "3d"]
LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0], [5.0, 3.0, 1.0, 2.0, -1.0]])


def chosen(targets=(), top_k=None, contrasts=()):
    return target_choice(targets, top_k, contrasts, CLASSES)(LOGITS)


def of(*targets):
    return [ClassTarget(*t) if isinstance(t, tuple) else ClassTarget(t) for t in targets]


def test_the_predicted_class_is_explained_unless_something_is_named():
    assert chosen() == [of(1), of(0)]
    assert chosen(targets=["b", "0"]) == [of(3, 0), of(3, 0)]


def test_most_likely_classes_come_in_order():
    assert chosen(top_k=3) == [of(1, 3, 2), of(0, 1, 3)]


def test_named_classes_come_first_and_count_once():
    assert chosen(targets=["dog"], top_k=2) == [of(1, 3, 2), of(1, 0, 3)]


def test_contrast_shows_both_classes_and_the_difference():
    assert chosen(contrasts=["cat:dog"]) == [of(0, 1, (0, 1))] * 2


def test_predicted_class_is_contrasted_and_with_the_runner_up_where_it_is_the_other_one():
    assert chosen(contrasts=["dog"]) == [of(1, 3, (1, 3)), of(0, 1, (0, 1))]


def test_nothing_is_explained_twice():
    assert chosen(targets=["cat"], contrasts=["cat:dog", "dog:cat"]) == [of(0, 1, (0, 1), (1, 0))] * 2


@pytest.mark.parametrize(
    ("text", "pair"),
    [("a:b", (1, 2)), ("a:b:cat", (2, 0)), ("cat:a:b", (0, 2)), ("a:b:b", (2, 3)), ("0:1", (0, 1))],
)
def test_names_may_hold_colons(text, pair):
    """In the first case a class has that very name: why what is predicted, and not it."""
    assert chosen(contrasts=[text])[0][-1] == ClassTarget(*pair)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"contrasts": ["cat:dogg"]}, "there is no class 'dogg'; did you mean 'dog'"),
        ({"contrasts": ["cow"]}, r"there is no class 'cow'; .* A and not B is written A:B\)"),
        ({"contrasts": ["cat-dog"]}, "why A and not B is written A:B, did you mean 'cat:dog'"),
        ({"contrasts": ["cat,dogg"]}, "did you mean 'cat:dog'"),
        ({"contrasts": ["cat:0"]}, "--contrast needs two different classes, got 'cat:0'"),
        ({"top_k": 6}, "top-k must be from 1 to the 5 classes of the network, got 6"),
        ({"top_k": 0}, "got 0"),
        ({"targets": ["²"]}, "there is no class '²'"),
    ],
)
def test_what_cannot_be_explained_is_refused(given, message):
    with pytest.raises(BcosError, match=message):
        chosen(**given)


def test_a_single_class_is_contrasted_with_nothing():
    with pytest.raises(BcosError, match="a network of one class has nothing to compare it with"):
        target_choice([], None, ["cat"], ["cat"])


def test_parts_of_file_names_are_safe_distinct_and_short():
    names = slugs(["a b", "a-b", "A_B", "c/../d", "n" * 300, "Größe", "x"])
    assert names[:3] == ["a_b_0", "a_b_1", "A_B_2"]
    assert names[3:] == ["c____d", "n" * 45, "Größe", "x"]


def test_numbers_as_names_are_said_to_be_classes():
    assert class_text(1, ["243", "7"]) == "class 7"
    assert target_text(ClassTarget(0, 1), ["cat", "7"]) == "cat, not class 7"
