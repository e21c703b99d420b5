"""Nothing of the user's is overwritten, and what cannot be written is said first."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcos_cli.config.output_path import check_folder, check_writable
from bcos_cli.train.model import build
from bcos_core import BcosError


def test_new_empty_and_own_folders_are_fine(tmp_path):
    check_folder(tmp_path / "new/deep", "m.json")
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", "m.json")
    (tmp_path / "empty/m.json").touch()
    (tmp_path / "empty/picture.png").touch()
    check_folder(tmp_path / "empty", "m.json", inputs=[tmp_path / "photo.jpg"])
    assert not (tmp_path / "new").exists()


def test_others_things_inputs_and_files_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.png").touch()
    with pytest.raises(BcosError, match="holds other things; choose a new folder"):
        check_folder(tmp_path / "mine", "m.json")
    (tmp_path / "mine/m.json").touch()
    with pytest.raises(BcosError, match=r"holds '.*photo.png', which is to be explained"):
        check_folder(tmp_path / "mine", "m.json", inputs=[tmp_path / "mine/photo.png"])
    with pytest.raises(BcosError, match="is a file; choose a folder"):
        check_folder(tmp_path / "mine/photo.png", "m.json")
    with pytest.raises(BcosError, match="is a file, not a folder"):
        check_writable(tmp_path / "mine/photo.png/below")


@pytest.fixture
def network(recipe, tmp_path):
    build(recipe(), ["rows", "columns", "corner"]).save(tmp_path / "model.safetensors")
    return "model.safetensors"


def test_images_are_not_overwritten_by_what_is_made_of_them(bcos, line, network, tmp_path):
    (tmp_path / "over").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "over/photo.png")
    before = (tmp_path / "over/photo.png").read_bytes()
    assert "choose another folder" in line(bcos("explain", network, "over/photo.png", "--out", "over"))
    assert "choose another folder" in line(bcos("explain", network, "over", "--out", "."))
    assert (tmp_path / "over/photo.png").read_bytes() == before
    assert bcos("explain", network, "over/photo.png", "--out", "new")[0] == 0
    assert bcos("explain", network, "over/photo.png", "--out", "new")[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "photo.png", "--out", "notes.txt/sub"),
        ("maps", "--data", "SHARDS", "--out", "notes.txt/sub"),
        ("neurons", "--data", "SHARDS", "--out", "notes.txt"),
        ("export", "--out", "notes.txt/net.onnx"),
        ("eval", "--data", "SHARDS", "--out", "notes.txt"),
        ("eval", "--data", "SHARDS", "--json", "notes.txt/e.json"),
    ],
    ids=lambda command: " ".join(command[::3]),
)
def test_places_that_cannot_be_written_are_one_line_before_any_work(command, bcos, line, network, shards, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photo.png")
    name, *rest = (part.replace("SHARDS", shards) for part in command)
    assert "notes.txt" in line(bcos(name, network, *rest))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no device that is always full")
def test_device_is_written_to_and_not_replaced(bcos, line, network, shards, tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")  # were it replaced, the machine would keep its own
    scored = bcos("eval", network, "--data", shards, "--metric", "top1", "--workers", 0, "--json", "full")
    assert "cannot use 'full': No space left on device" in line(scored)
    assert (tmp_path / "full").is_symlink()
    assert Path("/dev/full").is_char_device()
