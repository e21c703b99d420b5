"""A teacher's loss, against its formulas."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from stripes import SIDE

from bcos_cli.config import Distillation, dump_recipe, validate_recipe
from bcos_cli.train.distillation import Objective, Teacher, embedding_size
from bcos_cli.train.model import build
from bcos_core import BcosError

OUTPUTS = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])
ANSWER = torch.tensor([[1.0, -2.0, 1.5], [0.0, 3.0, -0.5]])


@pytest.fixture
def saved(recipe, tmp_path):
    """The folder of a network that knows three classes, by its loss."""

    def make(loss="bce", classes=("rows", "columns", "corner"), **sections):
        made = recipe(train={"loss": loss}, **sections)
        trained = build(made, list(classes))
        folder = tmp_path / f"{loss}-{len(classes)}"
        trained.save(folder / "model.safetensors")
        (folder / "config.yaml").write_text(dump_recipe(made))
        return str(folder)

    return make


def teacher(saved, recipe, *, of="bce", learns="bce", **options):
    student = build(recipe(train={"loss": learns}), ["rows", "columns", "corner"])
    return Teacher(Distillation(teacher=saved(of), **options), student, torch.device("cpu"))


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_logits_of_sigmoids(t, saved, recipe):
    p, q = torch.sigmoid(ANSWER / t), F.logsigmoid(OUTPUTS / t)
    expected = -(p * q + (1 - p) * F.logsigmoid(-OUTPUTS / t)).mean() * t**2
    torch.testing.assert_close(teacher(saved, recipe, temperature=t).loss(OUTPUTS, ANSWER), expected)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_logits_of_a_softmax(t, saved, recipe):
    p = (ANSWER / t).softmax(1)
    expected = (p * (p.log() - (OUTPUTS / t).log_softmax(1))).sum(1).mean() * t**2
    made = teacher(saved, recipe, of="cross_entropy", learns="cross_entropy", temperature=t)
    torch.testing.assert_close(made.loss(OUTPUTS, ANSWER), expected)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_logits_of_a_softmax_for_sigmoids(t, saved, recipe):
    p, level = (ANSWER / t).softmax(1), ANSWER.softmax(1)
    shape = (p * (p.log() - (OUTPUTS / t).log_softmax(1))).sum(1).mean() * t**2
    expected = shape - (level * F.logsigmoid(OUTPUTS) + (1 - level) * F.logsigmoid(-OUTPUTS)).mean()
    made = teacher(saved, recipe, of="cross_entropy", learns="bce", temperature=t)
    torch.testing.assert_close(made.loss(OUTPUTS, ANSWER), expected)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_logits_of_sigmoids_for_a_softmax(t, saved, recipe):
    p = torch.sigmoid(ANSWER / t)
    p = p / p.sum(1, keepdim=True)
    expected = (p * (p.log() - (OUTPUTS / t).log_softmax(1))).sum(1).mean() * t**2
    made = teacher(saved, recipe, of="bce", learns="cross_entropy", temperature=t)
    torch.testing.assert_close(made.loss(OUTPUTS, ANSWER), expected)


def test_embedding_is_a_direction(saved, recipe):
    made = teacher(saved, recipe, kind="embedding", weight=1)
    torch.testing.assert_close(made.loss(OUTPUTS, ANSWER), 1 - F.cosine_similarity(OUTPUTS, ANSWER).mean())
    torch.testing.assert_close(made.loss(3 * ANSWER, ANSWER), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_teacher_answers_in_eval_mode_without_gradients_at_its_own_size(saved, recipe):
    made = teacher(saved, recipe)
    pixels = torch.rand(2, 1, 8, 8, requires_grad=True)
    answer = made.outputs(pixels)
    assert not answer.requires_grad
    assert not made.trained.model.training
    assert not any(p.requires_grad for p in made.trained.model.parameters())
    torch.testing.assert_close(answer, made.trained.model(made.trained.encode(pixels)).detach())
    assert made.outputs(torch.rand(2, 1, 20, 20)).shape == (2, 3)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_objective_mixes_labels_and_teacher(weight):
    asked = []

    class Labels(torch.nn.Module):
        def forward(self, outputs, targets):
            asked.append(targets)
            return torch.tensor(8.0)

    fake = SimpleNamespace(
        options=SimpleNamespace(weight=weight), outputs=lambda pixels: ANSWER, loss=lambda o, a: torch.tensor(4.0)
    )
    objective = Objective(Labels(), fake)
    assert float(objective(OUTPUTS, "targets", "pixels")) == weight * 4 + (1 - weight) * 8
    assert asked == ([] if weight == 1 else ["targets"])
    objective.teacher = None
    assert float(objective(OUTPUTS, "targets", "pixels")) == 8


def test_size_of_an_embedding(saved):
    assert embedding_size(saved(classes=tuple("abcdefg"))) == 7


def test_classes_of_a_teacher_are_aligned_by_name(saved, recipe):
    student = build(recipe(), ["rows", "columns", "corner"])
    teacher = Teacher(
        Distillation(teacher=saved(classes=("corner", "x", "rows", "columns"))), student, torch.device("cpu")
    )
    pixels = torch.rand(2, 1, SIDE, SIDE)
    expected = teacher.trained.model(teacher.trained.encode(pixels))
    torch.testing.assert_close(teacher.outputs(pixels), expected[:, [2, 3, 0]])


def test_teacher_that_knows_or_sees_other_things_is_refused(saved, recipe):
    student = build(recipe(), ["rows", "columns", "corner"])
    with pytest.raises(BcosError, match=r"data.path"):
        Teacher(Distillation(teacher=saved(classes=("a", "b"))), student, torch.device("cpu"))
    colour = saved(classes=("rows", "columns", "corner", "x"), data={"image_channels": 3})
    with pytest.raises(BcosError, match=r"takes images of 3 channels, the network of 1"):
        Teacher(Distillation(teacher=colour), student, torch.device("cpu"))


def test_embedding_has_no_share_for_labels():
    with pytest.raises(BcosError, match=r"give distillation.weight=1"):
        validate_recipe(
            {
                "model": {"name": "cifar10_resnet20"},
                "train": {"epochs": 1},
                "distillation": {"teacher": "t", "kind": "embedding"},
            },
            "of the test",
        )
