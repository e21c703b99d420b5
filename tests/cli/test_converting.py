"""``bcos convert``: from names and runs to folders."""

import json

import pytest
import torch

from bcos_core import BcosConv2d
from bcos_models import create_model, load_trained, save_weights


@pytest.fixture
def plain(recipe, tmp_path):
    """A trained plain network: the folder of its run."""
    from bcos_cli.train.trainer import train

    options = {"name": "standard_cifar10_resnet20", "options": {"depths": [1], "width": 8}}
    train(recipe(model=options, data={"image_channels": None}, train={"epochs": 1}), tmp_path / "plain")
    return tmp_path / "plain"


def test_plan_is_printed_without_weights(bcos, tmp_path):
    status, out, err = bcos("convert", "timm/test_resnet", "--dry-run")
    assert status == 0, err
    assert "conv1.0: Conv2d → BcosConv2d (convolution becomes B-cos)" in out
    assert "act1: ReLU (activations are kept)" in out
    assert "layers replaced" in err  # a title, which pipes do not get
    assert "holds their mean and deviation" in out
    assert "constants that remain" not in out  # of random weights
    assert "image share" not in out
    assert not list(tmp_path.iterdir())


def test_plan_as_json_tells_every_layer(bcos):
    status, out, _ = bcos("convert", "timm/test_resnet", "--dry-run", "--json", "-o", "keep_norms=true")
    plan = json.loads(out)
    assert status == 0
    assert plan["options"]["keep_norms"] is True
    step = next(s for s in plan["steps"] if s["name"] == "bn1")
    assert (step["replaced"], step["reason"]) == (False, "norms are kept")


def test_weights_are_converted_to_a_folder_that_the_other_commands_take(bcos, tmp_path):
    import timm

    original = timm.create_model("test_resnet", num_classes=3)
    save_weights(original, tmp_path / "plain.safetensors")
    exact = ["-o", "b=1", "-o", "keep_bias=true", "-o", "keep_norms=true", "-o", "keep_pooling=true"]
    status, out, err = bcos(
        "convert", "timm/test_resnet", "--weights", "plain.safetensors", "--classes", "3", "--out", "net", *exact
    )
    assert status == 0, err
    assert "written to net" in out
    trained = load_trained("net")
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = original.eval()((x - 0.5) / 0.5)
        torch.testing.assert_close(trained.model(trained.encode(x)), expected, rtol=1e-4, atol=1e-5)


def test_run_is_converted_with_its_weights_options_and_classes(bcos, plain):
    status, _, err = bcos("convert", plain, "--out", "net", "-o", "b=1", "-o", "keep_bias=true")
    assert status == 0, err
    before, after = load_trained(str(plain)), load_trained("net")
    assert after.classes == before.classes == ["rows", "columns", "corner"]
    assert after.name == "bcosified/standard_cifar10_resnet20"
    assert after.input.size == 8
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(after.model(after.encode(x)), before.model(before.encode(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["timm/test_resnet"],
            "nowhere to write the converted network; give a folder with --out, or --probe",
        ),
        (["timm/test_resnet1", "--dry-run"], "timm has no model 'test_resnet1'; did you mean 'test_resnet'?"),
        (["resnet18", "--dry-run"], "'resnet18' is one of our models; bcos convert takes timm/NAME"),
        (["timm/test_resnet", "--dry-run", "-o", "bb=1"], "has no option 'bb'; did you mean 'b'?"),
        (["timm/test_resnet", "--dry-run", "-o", "b"], "an override is written key=value"),
        (["timm/test_resnet", "--weights", "no.pth", "--out", "net"], "there is no weights file 'no.pth'"),
        (["full", "--out", "net"], "holds no model.safetensors"),
        (["timm/test_resnet", "--out", "full"], "'full' is not empty; choose another folder with --out"),
    ],
)
def test_mistakes_are_one_line(bcos, line, arguments, message, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("here")
    assert message in line(bcos("convert", *arguments))
    assert not (tmp_path / "net").exists()


def test_networks_are_explained_as_they_are_without_a_conversion(bcos, tree, tmp_path):
    import timm

    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    arguments = ("explain", "timm/test_resnet", tree / "test", "--weights", "w.pth", "--out", "pictures")
    status, _, err = bcos(*arguments, "--method", "bcos", "--method", "gradcam")
    assert status == 0, err
    found = json.loads((tmp_path / "pictures/explanations.json").read_text())["explanations"]
    assert len(found) == 20
    for one in found:
        if one["method"] == "bcos":
            assert one["contributions"] + one["bias"] == pytest.approx(one["logit"], abs=1e-4)


def test_bcos_network_of_a_run_is_not_converted_again(bcos, line, recipe, tmp_path):
    from bcos_cli.train.trainer import train

    train(recipe(train={"epochs": 1}), tmp_path / "run")
    assert "is a B-cos network already" in line(bcos("convert", tmp_path / "run", "--out", "net"))


def test_create_model_gives_the_network_that_the_command_wrote(bcos):
    assert bcos("convert", "bcosified/standard_cifar10_resnet20", "--dry-run")[0] == 0
    assert create_model("bcosified/standard_cifar10_resnet20").conversion.replaced


def test_fine_tuned_network_of_a_library_is_converted(bcos, shards, tmp_path):
    import timm

    save_weights(timm.create_model("test_resnet", num_classes=4), tmp_path / "four.safetensors")
    settings = {
        "train": {"epochs": 1, "batch_size": 8, "loss": "cross_entropy"},
        "data": {"image_size": 32, "workers": 0},
        "schedule": {"warmup_epochs": 0},
        "evaluation": {"gridpg_grids": 0, "gallery_per_class": 0, "neurons": 0},
    }
    overrides = [f"{section}.{key}={value}" for section, values in settings.items() for key, value in values.items()]
    options = [word for override in overrides for word in ("-o", override)]
    status, _, err = bcos(
        "train", "--from", "timm/test_resnet", "--weights", "four.safetensors", "--data", shards, "--out", "r", *options
    )
    assert status == 0, err
    plain = load_trained("r")
    assert plain.options["as_is"] is True
    exact = ["-o", "b=1", "-o", "keep_bias=true", "-o", "keep_norms=true", "-o", "keep_pooling=true"]
    status, _, err = bcos("convert", "r", "--out", "net", *exact)
    assert status == 0, err
    made = load_trained("net")
    assert (made.classes, made.input.size) == (plain.classes, 32)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain.model(plain.encode(x))
        torch.testing.assert_close(made.model(made.encode(x)), expected, rtol=1e-4, atol=1e-5)
    status, _, err = bcos("convert", "net", "--out", "twice")
    assert status == 2
    assert "is timm/test_resnet converted already (images={'size': 32}, b=1" in err
    assert "annealing.exponent_to" in err


def test_kernels_are_fitted_and_each_step_is_told(bcos, plain, shards):
    status, out, err = bcos("convert", plain, "--out", "net", "--fit", shards, "--probe", shards)
    assert status == 0, err
    assert "layers were fitted to 12 images" in out
    steps = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert ["step", "as the original", "top-1", "spread of logits", "image share"] in steps
    assert any(step[0] == "kernels fitted" for step in steps)
    assert steps[-1][0] == "B = 2"
    assert steps[-1][-1] == "100 %"
    assert f"bcos train bcosify_photographs --from net --data {shards} -o distillation.teacher=" in out
    load_trained("net")


def test_probe_alone_writes_nothing(bcos, plain, shards, tmp_path):
    before = sorted(tmp_path.iterdir())
    status, out, err = bcos("convert", plain, "--probe", shards, "--json")
    assert status == 0, err
    steps = json.loads(out)["probe"]
    assert steps[0]["name"] == "as it is"
    assert steps[0]["agreement"] == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--fit"], "--dry-run runs no network, which --fit and --probe need"),
        (["--out", "net", "-o", "keep_norms=true", "-o", "keep_bias=true", "--fit"], "there is no layer to fit"),
    ],
)
def test_fitting_that_cannot_be_is_refused(bcos, line, plain, shards, arguments, message, tmp_path):
    assert message in line(bcos("convert", plain, *arguments, shards))
    assert not (tmp_path / "net").exists()


def test_weights_say_the_number_of_classes_and_a_file_their_names(bcos, line, tmp_path):
    import timm

    save_weights(timm.create_model("test_resnet", num_classes=3), tmp_path / "three.safetensors")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    (tmp_path / "two.txt").write_text("a\nb\n")
    given = ("convert", "timm/test_resnet", "--weights", "three.safetensors")
    status, out, err = bcos(*given, "--out", "bare")
    assert status == 0, err
    assert "bcos train bcosify_photographs --from bare --data SHARDS -o distillation.teacher=RUN\n" in out
    assert load_trained("bare").classes == ["0", "1", "2"]
    status, _, err = bcos(*given, "--out", "named", "--classes", "names.txt")
    assert status == 0, err
    assert load_trained("named").classes == ["a", "b", "c"]
    assert "--classes two.txt has 2 names, the weights are for 3 classes" in line(
        bcos(*given, "--out", "other", "--classes", "two.txt")
    )
    assert "--classes must be at least 1" in line(bcos(*given, "--out", "other", "--classes", "0"))
    assert "cannot read the names of classes in 'no.txt'" in line(bcos(*given, "--out", "other", "--classes", "no.txt"))


def test_converted_network_standardises_images_as_its_original_was_trained(bcos, tmp_path):
    import timm

    original = timm.create_model("test_resnet", num_classes=3).eval()
    save_weights(original, tmp_path / "plain.safetensors")
    exact = ["-o", "b=1", "-o", "keep_bias=true", "-o", "keep_norms=true", "-o", "keep_pooling=true"]
    images = ["--image-size", 64, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    status, _, err = bcos(
        "convert", "timm/test_resnet", "--weights", "plain.safetensors", "--out", "net", *exact, *images
    )
    assert status == 0, err
    assert "images: shorter side 67, middle 64×64, mean 0.485,0.456,0.406, std 0.229,0.224,0.225" in err
    made = load_trained("net")
    assert (made.input.size, made.input.resize) == (64, 67)
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        torch.testing.assert_close(made.model(made.encode(x)), original((x - mean) / std), rtol=1e-4, atol=1e-5)


def test_statistics_of_a_run_outlive_its_conversion(bcos, shards, recipe, line, tmp_path):
    from bcos_cli.train.trainer import train

    model = {"name": "standard_cifar10_resnet20", "options": {"depths": [1], "width": 8}}
    data = {"image_channels": None, "mean": [0.1, 0.2, 0.3], "std": [0.7]}
    train(recipe(model=model, data=data, train={"epochs": 1}), tmp_path / "plain")
    plain = load_trained("plain")
    assert (plain.input.mean, plain.input.std) == ((0.1, 0.2, 0.3), (0.7, 0.7, 0.7))
    status, _, err = bcos("convert", "plain", "--out", "net", "-o", "b=1", "-o", "keep_bias=true")
    assert status == 0, err
    made = load_trained("net")
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = plain.model(plain.encode(x))
        torch.testing.assert_close(made.model(made.encode(x)), expected, rtol=1e-4, atol=1e-5)
    assert "'plain' has its own" in line(bcos("convert", "plain", "--out", "other", "--mean", "0.5"))


def test_converted_run_becomes_a_bcos_network_with_the_plain_one_as_its_teacher(bcos, plain, shards):
    status, _, err = bcos("convert", plain, "--fit", shards, "--out", "net")
    assert status == 0, err
    short = {
        "train.epochs": 1,
        "train.batch_size": 8,
        "annealing.exponent_epochs": 0.5,
        "schedule.warmup_steps": 0,
        "data.workers": 0,
        "evaluation.gallery_per_class": 0,
        "evaluation.gridpg_grids": 2,
        "evaluation.neurons": 0,
        "distillation.teacher": plain,
    }
    overrides = [word for key, value in short.items() for word in ("-o", f"{key}={value}")]
    status, out, err = bcos(
        "train", "bcosify_photographs", "--from", "net", "--data", shards, "--out", "run", *overrides
    )
    assert status == 0, err
    assert "median image share 100.0 %" in out
    trained = load_trained("run")
    assert {layer.b for layer in trained.model.modules() if isinstance(layer, BcosConv2d)} == {2.0}
    assert not any(name.endswith(".bias") for name, _ in trained.model.named_parameters())
