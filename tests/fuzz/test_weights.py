"""Weights and descriptions beside them: headers of safetensors, ``.pth`` files, folders of pretrained networks."""

import io
import json
import struct
from dataclasses import replace

import pytest
import torch
from mutations import altered, as_json, damaged, json_files

from bcos_cli.train.checkpoint import load_progress, load_tensors
from bcos_models import TrainedModel, create_model, load_trained, save_pretrained
from bcos_models.weights import read_state

OPTIONS = {"depths": [1], "width": 2}


@pytest.fixture(scope="module")
def header(folder):
    """Header and tensors of a run's weights."""
    model = create_model("cifar10_resnet20", num_classes=3, **OPTIONS)
    trained = TrainedModel(model, replace(model.bcos_config, classes=["a", "b", "c"]))
    trained.save(folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(header, tensors):
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + tensors


def test_weights_are_loaded_or_refused_in_one_line(fuzz, folder, header):
    values, tensors = header
    description = json.loads(values["__metadata__"]["bcos"])

    def described(text):
        return packed({**values, "__metadata__": {"bcos": text}}, tensors)

    def read(content):
        (folder / "model.safetensors").write_bytes(content)
        load_trained(str(folder / "model.safetensors"))

    read(packed(values, tensors))
    inner = json_files(description).map(lambda text: described(text.decode("utf-8", "replace")))
    outer = altered([values]).map(lambda changed: packed(changed, tensors))
    fuzz(read, inner | outer | damaged([packed(values, tensors)]), examples=100)


def test_a_state_dict_is_read_or_refused_in_one_line(fuzz, folder, header):
    def saved(value):
        stream = io.BytesIO()
        torch.save(value, stream)
        return stream.getvalue()

    state = {"a.weight": torch.zeros(2, 3), "b": torch.ones(1)}
    odd = [{"state_dict": state}, {"state_dict": 1}, [state], {1: state}, {"a": {}}, {"model": state, "epoch": 1}, 3]
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    valid = [saved(state), *map(saved, odd), legacy.getvalue(), b"cos\nsystem\n(S'id'\ntR."]

    def read(content):
        (folder / "a.pth").write_bytes(content)
        read_state(folder / "a.pth")

    fuzz(read, damaged(valid), examples=80)


def test_a_checkpoint_is_read_or_refused_in_one_line(fuzz, folder, header):
    values, tensors = header
    stream = io.BytesIO()
    torch.save({"progress": {"epoch": 1, "step": 2}, "optimizer": {}}, stream)

    def read(choice):
        is_state, content = choice
        (folder / ("state.pt" if is_state else "model.safetensors")).write_bytes(content)
        load_progress(folder) if is_state else load_tensors(folder, "model")

    states = damaged([stream.getvalue()]).map(lambda content: (True, content))
    fuzz(read, states | damaged([packed(values, tensors)]).map(lambda content: (False, content)), examples=100)


def test_a_pretrained_folder_is_read_or_refused_in_one_line(fuzz, folder):
    model = create_model("cifar10_resnet20", num_classes=3, **OPTIONS)
    save_pretrained(model, folder / "pretrained", class_names=["a", "b", "c"])
    config = folder / "pretrained" / "config.json"
    values = json.loads(config.read_text())

    def read(content):
        config.write_bytes(content)
        load_trained(str(folder / "pretrained"))

    read(as_json(values))
    fuzz(read, json_files(values), examples=100)
