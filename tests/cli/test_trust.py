"""What a stranger's run may not do: run code, open addresses, write outside of its folder."""

import json
import sys

import pytest
import safetensors.torch
import torch
import yaml

from bcos_cli.config import dump_recipe, load_recipe
from bcos_cli.config.trust import CHECKS
from bcos_cli.train.model import build
from bcos_core import BcosError
from bcos_core.address import is_address
from bcos_models import load_trained

CLASSES = ["rows", "columns", "corner"]
EVIL = "import pathlib, torch\npathlib.Path('ran').touch()\n\ndef f(options):\n    return torch.nn.CrossEntropyLoss()\n"


@pytest.fixture
def stranger(recipe, tmp_path):
    """A run whose ``config.yaml`` and header say what they are told to; beside it a module that leaves a file."""
    (tmp_path / "evil_mod.py").write_text(EVIL)

    def make(header=None, **sections):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(dump_recipe(recipe(**sections)))
        trained = build(recipe(), CLASSES)
        trained.save(folder / "model.safetensors")
        if header:
            write_header(folder / "model.safetensors", **header)
        return folder

    yield make
    sys.modules.pop("evil_mod", None)
    assert str(tmp_path) not in sys.path


def write_header(path, **changes):
    state = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["bcos"])
    described |= changes
    described = {key: value for key, value in described.items() if value != "leave out"}
    safetensors.torch.save_file(state, path, {"bcos": json.dumps(described)})


PIPE = "pipe:touch ran; cat /dev/null #"
READS = [
    ("eval", "run", "--metric", "top1", "--workers", 0),
    ("maps", "run", "--out", "m", "--workers", 0),
    ("neurons", "run", "--out", "n", "--workers", 0),
    ("doctor", "run/config.yaml", "--out", "new"),
    ("doctor", "--out", "run"),
    ("train", "run/config.yaml", "--out", "new"),
    ("train", "--resume", "--out", "run"),
    ("train", "--auto-resume", "--out", "run"),
]


@pytest.mark.parametrize("command", READS, ids=str)
@pytest.mark.parametrize(
    "path", [PIPE, f" {PIPE}", "http://127.0.0.1:9/x", "s3://bucket/$(touch ran)", "pi\tpe:touch ran"]
)
def test_addresses_that_a_run_names_are_not_opened(command, path, stranger, bcos, line, tmp_path):
    stranger(data={"path": path})
    told = line(bcos(*command))
    assert "names an address: data.path=" in told
    assert "add --trust-run if you trust who made the run, or give --data" in told
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", READS[3:], ids=str)
def test_code_that_a_run_names_is_not_imported(command, stranger, bcos, line, tmp_path):
    stranger(train={"loss": "evil_mod:f"})
    told = line(bcos(*command))
    assert "names code: train.loss='evil_mod:f'; add --trust-run" in told
    assert not (tmp_path / "ran").exists()
    assert "evil_mod" not in sys.modules


def test_scores_need_no_loss_of_a_runs_maker(stranger, bcos, tmp_path):
    stranger(train={"loss": "evil_mod:f"})
    status, _, err = bcos("eval", "run", "--metric", "top1", "--workers", 0)
    assert status == 0, err
    assert not (tmp_path / "ran").exists()


def test_trusted_run_does_what_it_names(stranger, shards, bcos, tmp_path):
    stranger(train={"loss": "evil_mod:f", "epochs": 1, "explained_images": 0}, data={"path": f"pipe:cat {shards}"})
    before = list(sys.path)
    status, _, err = bcos("train", "run/config.yaml", "--out", "new", "--data", shards, "--trust-run")
    assert status == 0, err
    assert (tmp_path / "ran").exists()
    assert sys.path == before


def test_code_that_a_user_types_is_run_and_sys_path_stays(stranger, shards, bcos, tmp_path):
    stranger(train={"loss": "evil_mod:other", "epochs": 1, "explained_images": 0}, data={"path": "pipe:false"})
    before = list(sys.path)
    arguments = ("train", "run/config.yaml", "--out", "new", "--data", shards)
    status, _, err = bcos(*arguments, "-o", "train.loss=evil_mod:f")
    assert status == 0, err
    assert (tmp_path / "ran").exists()
    assert sys.path == before


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"data": {"cache": "/home/somebody"}}, "data.cache"),
        ({"train": {"trackers": ["tensorboard", "wandb"]}}, "train.trackers"),
        ({"model": {"weights": "http://127.0.0.1:9/w.pth"}}, "model.weights"),
        ({"model": {"weights": "hf://somebody/net"}}, "model.weights"),
        ({"distillation": {"teacher": "hf://somebody/net"}}, "distillation.teacher"),
        ({"model": {"options": {"network": {"checkpoint_path": "evil.pth"}}}}, "model.options"),
        ({"model": {"options": {"norm": "http://127.0.0.1:9/x"}}}, "model.options"),
    ],
    ids=str,
)
def test_other_values_of_a_run_that_reach_out_are_refused(sections, key, stranger, bcos, line):
    stranger(**sections)
    assert f"{key}=" in line(bcos("train", "run/config.yaml", "--out", "new"))


def test_start_that_a_run_names_is_refused_but_that_of_the_user_is_not(stranger, tmp_path):
    folder = stranger()
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["model"] |= {"start": "hf://somebody/net", "name": None, "options": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(BcosError, match=r"model.start='hf://somebody/net'; .*, or give --from"):
        load_recipe("run/config.yaml")
    assert load_recipe("run/config.yaml", ["model.start=hf://mine/net"]).model.start == "hf://mine/net"


def test_every_value_that_is_checked_is_one_of_a_recipe(recipe):
    for key in CHECKS:
        section, _, name = key.partition(".")
        assert section == "distillation" or name in type(getattr(recipe(), section)).model_fields


def test_a_users_recipe_is_trusted_but_not_the_run_below_it(stranger, tmp_path):
    stranger(train={"loss": "evil_mod:f"})
    (tmp_path / "mine.yaml").write_text("base: run/config.yaml\ntrain: {epochs: 1}\n")
    with pytest.raises(BcosError, match=r"run/config\.yaml names code"):
        load_recipe("mine.yaml")
    (tmp_path / "mine.yaml").write_text("base: run/config.yaml\ntrain: {loss: 'evil_mod:f'}\n")
    assert load_recipe("mine.yaml").train.loss == "evil_mod:f"
    (tmp_path / "link.yaml").symlink_to("run/config.yaml")
    with pytest.raises(BcosError, match=r"link.yaml names code"):
        load_recipe("link.yaml")


def test_a_run_has_no_base(stranger):
    folder = stranger()
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"base: ../other.yaml\n{text}")
    with pytest.raises(BcosError, match=r"has base='../other.yaml'; a run's recipe is complete"):
        load_recipe("run/config.yaml")


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "http://127.0.0.1:9/w.safetensors"},
        {"pretrained": True},
        {"network": {"pretrained_cfg": {"file": "evil.pth"}}},
        {"network": {"checkpoint_path": "evil.pth"}},
        {"network": {"norm": "../evil"}},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "command", [("explain", "IMAGE", "--out", "e"), ("export", "--out", "x.onnx"), ("eval",)], ids=str
)
def test_weights_name_no_file_and_no_address(options, command, stranger, bcos, line):
    stranger({"options": {"depths": [1], "width": 8, "in_chans": 2} | options})
    name, *rest = command
    told = line(bcos(name, "run", *[a.replace("IMAGE", __file__) for a in rest]))
    assert "options" in told
    assert len(told) < 700


def test_trust_of_one_call_does_not_last(stranger, bcos, line):
    stranger(data={"path": "pipe:false"})
    assert "there are no shards" in line(bcos("eval", "run", "--trust-run", "--metric", "top1"))
    assert "names an address" in line(bcos("eval", "run", "--metric", "top1"))


def test_every_command_that_loads_a_run_can_be_told_to_trust_it(bcos):
    for command in ("eval", "explain", "maps", "neurons", "doctor", "serve", "export", "convert", "train"):
        assert "--trust-run" in bcos(command, "--help")[1], command


@pytest.mark.parametrize(
    "text",
    [
        "http://a/b",
        "pipe:x",
        " pipe:x",
        "p\nipe:x",
        "\xa0pipe:x",
        "\x1bpipe:x",
        "hf://a",
        "file:/etc",
        "s3:x",
        "http://[",
    ],
)
def test_addresses_are_known(text):
    assert is_address(text)


@pytest.mark.parametrize(
    "text", ["shards", "exp:1/shards", "/data/a:b", "./pipe:x", "C:\\shards", "timm/resnet18", "resnet50"]
)
def test_local_paths_and_names_are_no_addresses(text):
    assert not is_address(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "leave out"}, "it does not say its model"),
        ({"model": 5}, "the model must be a name"),
        ({"model": "no_such_network"}, "there is no model 'no_such_network'"),
        ({"model": "timm/../../etc/passwd"}, "timm has no model"),
        ({"model": "x" * 10_000}, "the model must be a name"),
        ({"probabilities": "evil"}, "probabilities must be 'sigmoid' or 'softmax', got 'evil'"),
        ({"probabilities": None}, "probabilities must be"),
        ({"probabilities": ["softmax"]}, "probabilities must be"),
        ({"classes": []}, "classes must be a list of 1 to"),
        ({"classes": "abc"}, "classes must be a list"),
        ({"classes": [1, 2, 3]}, "a class must be a name"),
        ({"classes": ["a", "a", "b"]}, "the class 'a' is named twice"),
        ({"classes": ["a", "b"]}, r"fc.weight has shape \(3, 8, 1, 1\), needs \(2, 8, 1, 1\)"),
        ({"input": 3}, "input must be a mapping"),
        ({"input": {"sighs": 3}}, "input has other keys: 'sighs'"),
        ({"input": {"size": "8"}}, "size of an input must be 1 to 4,096, got '8'"),
        ({"input": {"size": 10**9}}, "size of an input must be 1 to 4,096"),
        ({"input": {"size": 8, "channels": 3}}, "it takes 2 channels, its input is described with 6"),
        ({"input": {"encoding": "evil"}}, "encoding must be one of"),
        ({"options": 7}, "options must be a mapping"),
        ({"options": {"depths": [1], "width": 8, "in_chans": 2, "x": 1}}, "has no option 'x'"),
        ({"options": {"depths": [1], "width": 10**9}}, "at most 100,000 where it is whole"),
        ({"options": {"depths": [10**5], "width": 1}}, "it has at least 1,.* parameters, its weights only"),
        ({"options": {"depths": [1], "width": 10**5, "in_chans": 2}}, r"has shape \(8,\), needs \(100000,\)"),
        ({"options": {"depths": [[1]], "width": 8}}, "cannot build the network"),
        ({"options": {"depths": ["a"], "width": 8}}, "cannot build the network"),
        ({"options": {"b": float("nan")}}, "NaN is not a finite number"),
        ({"options": {"depths": [1] * 20_000}}, "more than 10,000 values"),
        ({"surprise": 1}, "it says its 'surprise', which is not known here"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_header_that_describes_no_network_is_one_line(change, message, stranger):
    folder = stranger(change)
    with pytest.raises(BcosError, match=message) as error:
        load_trained(str(folder))
    assert len(str(error.value)) < 800
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"model": 1, "model": 2}', "\x00", '{"a": 1e999}'])
def test_header_that_is_no_description_is_one_line(text, stranger):
    path = stranger() / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"bcos": text})
    with pytest.raises(BcosError, match=r"the header of .* describes no network"):
        load_trained(str(path))


def test_network_does_not_take_memory_before_it_is_compared_with_its_weights(stranger, monkeypatch):
    folder = stranger({"options": {"depths": [1], "width": 10**5, "in_chans": 2}})
    largest = 0

    def empty(*shape, _empty=torch.empty, **options):
        nonlocal largest
        made = _empty(*shape, **options)
        largest = max(largest, 0 if made.is_meta else made.numel())
        return made

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(BcosError, match="do not fit the model"):
        load_trained(str(folder))
    assert largest < 10**5


def test_trust_lets_options_name_files(stranger):
    options = {"depths": [1], "width": 8, "in_chans": 2, "norm": "some/file"}
    folder = stranger({"options": options})
    with pytest.raises(BcosError, match=r"options\.norm='some/file' is not a word"):
        load_trained(str(folder))
    with pytest.raises(BcosError, match="there is no norm 'some/file'"):
        load_trained(str(folder), trust=True)


@pytest.mark.parametrize(
    "command",
    [
        ("export", "run", "--out", "a.pt2"),
        ("maps", "run", "--out", "m", "--workers", 0),
        ("neurons", "run", "--out", "n", "--workers", 0),
        ("eval", "run", "--metric", "top1", "--workers", 0),
        ("convert", "run", "--out", "c"),
    ],
    ids=lambda command: command[0],
)
def test_commands_load_a_network_with_the_trust_that_is_typed(command, stranger, shards, bcos, line):
    stranger({"options": {"depths": [1], "width": 8, "in_chans": 2, "norm": "some/file"}}, data={"path": shards})
    assert "options.norm='some/file' is not a word" in line(bcos(*command))
    assert "there is no norm 'some/file'" in line(bcos(*command, "--trust-run"))
