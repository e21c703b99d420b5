"""Downloads against a server of the test's own: whole, broken, resumed, wrong, absent."""

import hashlib
import importlib.util
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bcos_core import BcosError
from bcos_models import create_model, download, get_spec, imagenet
from bcos_models.download import fetch
from bcos_models.spec import Checkpoint
from bcos_models.weights import find_weights

_spec = importlib.util.spec_from_file_location("models_test_server", Path(__file__).with_name("server.py"))
server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(server)

DATA = bytes(range(256)) * 5000  # more than one chunk
NAME = f"net-{hashlib.sha256(DATA).hexdigest()[:10]}.pth"


@pytest.fixture
def files():
    with server.serving(**{NAME: DATA, "free.pth": DATA}) as made:
        yield made


def get(files, folder, name=NAME):
    return fetch(f"{files.url}/{name}", folder=folder)


def names(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_file_arrives_whole_and_is_fetched_once(files, tmp_path):
    path = get(files, tmp_path / "cache")
    assert path.read_bytes() == DATA
    assert get(files, tmp_path / "cache") == path
    assert len(files.requests) == 1
    assert names(tmp_path / "cache") == [NAME]


def test_broken_transfer_goes_on_where_it_stopped(files, tmp_path):
    files.break_after = [1000, 700_000]
    assert get(files, tmp_path).read_bytes() == DATA
    assert [wanted for _, wanted in files.requests] == [None, "bytes=1000-", "bytes=701000-"]
    assert names(tmp_path) == [NAME]


def test_transfer_given_up_is_taken_up_by_the_next_call(files, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    files.break_after = [1000]
    message = rf"cannot download {files.url}/{NAME}: the transfer broke after 1000 bytes; try again \(what has arrived"
    with pytest.raises(BcosError, match=message):
        get(files, tmp_path)
    assert names(tmp_path) == [f"{NAME}.part"]
    assert get(files, tmp_path).read_bytes() == DATA
    assert files.requests[-1][1] == "bytes=1000-"


def test_interrupted_by_the_user_keeps_what_arrived(files, tmp_path, monkeypatch):
    class Bar:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def update(self, _):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download, "tqdm", Bar)
        with pytest.raises(KeyboardInterrupt):
            get(files, tmp_path)
    assert (tmp_path / f"{NAME}.part").stat().st_size > 0
    assert get(files, tmp_path).read_bytes() == DATA


def test_server_without_parts_sends_all_again(files, tmp_path):
    files.break_after = [1000]
    files.ranges = False
    assert get(files, tmp_path).read_bytes() == DATA


def test_part_of_another_file_is_dropped(files, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * (len(DATA) + 5))
    assert get(files, tmp_path).read_bytes() == DATA


def test_wrong_file_is_refused_and_removed(files, tmp_path):
    files.content[f"/{NAME}"] = DATA[:-1] + b"?"
    digits = NAME[4:14]
    with pytest.raises(BcosError, match=rf"is not the file that .* names: its SHA-256 starts with .*, needed {digits}"):
        get(files, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [DATA[:100], b""], ids=["truncated", "empty"])
def test_wrong_file_that_was_placed_by_hand_is_refused_and_left(content, files, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(BcosError, match="it was left as it is: remove it, or place the right file"):
        get(files, tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_file_placed_by_hand_needs_no_network(tmp_path):
    (tmp_path / NAME).write_bytes(DATA)
    assert fetch(f"http://127.0.0.1:9/{NAME}", folder=tmp_path).read_bytes() == DATA


def test_no_network_names_the_url_and_the_place_for_the_file(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{NAME}"
        message = (
            rf"cannot download {url}: .*refused.*place the file at {re.escape(repr(str(tmp_path / NAME)))} by hand"
        )
        with pytest.raises(BcosError, match=message):
            fetch(url, folder=tmp_path)


def test_missing_file_is_told_at_once(files, tmp_path):
    with pytest.raises(BcosError, match=r"cannot download .*/nothing.pth: HTTP Error 404"):
        get(files, tmp_path, "nothing.pth")
    assert len(files.requests) == 1


def test_file_without_digits_is_never_patched_together(files, tmp_path):
    path = get(files, tmp_path, "free.pth")
    path.rename(f"{path}.part")
    assert get(files, tmp_path, "free.pth").read_bytes() == DATA
    assert files.requests == [("/free.pth", None)] * 2


def test_files_of_one_name_from_two_places_are_two_files(files, tmp_path):
    files.content |= {"/a/model.pth": b"a", "/b/model.pth": b"b"}
    assert [get(files, tmp_path, f"{place}/model.pth").read_bytes() for place in "aba"] == [b"a", b"b", b"a"]
    assert len(files.requests) == 2


@pytest.mark.parametrize("name", ["net-20240115.pth", "net-20240115123000.pth", "net-1.pth", "net-latest.pth"])
def test_dates_and_words_are_no_digits_of_a_hash(name, files, tmp_path):
    files.content[f"/{name}"] = DATA
    assert get(files, tmp_path, name).read_bytes() == DATA


def test_known_digits_are_checked_whatever_the_name(files, tmp_path):
    with pytest.raises(BcosError, match="needed 5175461597"):
        fetch(f"{files.url}/free.pth", sha256="5175461597", folder=tmp_path)
    digits = hashlib.sha256(DATA).hexdigest()[:10]
    assert fetch(f"{files.url}/free.pth", sha256=digits, folder=tmp_path) == tmp_path / "free.pth"


def test_part_that_is_whole_is_taken_without_a_request(files, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(DATA)
    assert get(files, tmp_path).read_bytes() == DATA
    assert files.requests == []


def test_file_in_a_folder_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    (tmp_path / NAME).write_bytes(DATA)
    monkeypatch.setattr(download, "FileLock", refuse)
    assert fetch(f"http://127.0.0.1:9/{NAME}", folder=tmp_path) == tmp_path / NAME


@pytest.mark.parametrize("reason", [PermissionError("read-only"), NotImplementedError("no locks")], ids=str)
def test_cache_that_cannot_be_written_is_one_line(reason, tmp_path, monkeypatch):
    def refuse(*_):
        raise reason

    monkeypatch.setattr(download, "FileLock", refuse)
    with pytest.raises(BcosError, match=rf"cannot keep http://there/{NAME} at .*: {reason}; set TORCH_HOME"):
        fetch(f"http://there/{NAME}", folder=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://there/a.pth",
        "file:///etc/passwd",
        "http://there",
        "http://there/..",
        "http://[::1/a.pth",
        "http://there/ä.pth",
        "http://there/a b.pth",
        "resnet18.pth",
    ],
)
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(BcosError, match="give an http or https URL that ends in a file name"):
        fetch(url, folder=tmp_path)


def test_progress_is_shown_on_a_terminal_only(files, tmp_path, capsys):
    fetch(f"{files.url}/{NAME}", folder=tmp_path)
    assert capsys.readouterr().err == ""


def test_cache_is_that_of_pytorch(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(monkeypatch, tmp_path):
    """cifar10_resnet20 with weights "published" on a server, with the reference's keys; the server and the weights."""
    from bcos_models import plugins

    torch.manual_seed(1)
    trained = create_model("cifar10_resnet20")
    trained(torch.rand(2, 6, 16, 16))  # running statistics
    keys = {
        k: k.replace(".weight", ".linear.weight") if "conv" in k or k == "fc.weight" else k
        for k in trained.state_dict()
    }
    state = {
        keys[k].replace("downsample.0.weight", "downsample.0.linear.weight"): v for k, v in trained.state_dict().items()
    }
    torch.save(state, tmp_path / "weights.pth")
    data = (tmp_path / "weights.pth").read_bytes()
    name = f"weights-{hashlib.sha256(data).hexdigest()[:10]}.pth"
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with server.serving(**{name: data}) as files:
        spec = get_spec("cifar10_resnet20")
        digits = hashlib.sha256(data).hexdigest()[:10]
        checkpoint = replace(get_spec("resnet18").checkpoint, url=f"{files.url}/{name}", sha256=digits)
        monkeypatch.setitem(plugins.registry()._specs, spec.name, replace(spec, checkpoint=checkpoint))
        yield files, trained


def test_pretrained_model_has_the_published_weights(published):
    files, trained = published
    model = create_model("cifar10_resnet20", pretrained=True)
    x = torch.rand(2, 6, 16, 16)
    torch.testing.assert_close(model.eval()(x), trained.eval()(x))
    create_model("cifar10_resnet20", pretrained=True)
    assert len(files.requests) == 1


def test_pretrained_model_names_the_classes_of_imagenet(published, monkeypatch):
    names = [f"name {k}" for k in range(10)]
    monkeypatch.setattr(imagenet, "CLASSES", 10)
    monkeypatch.setattr(imagenet, "class_names", lambda: names)
    assert create_model("cifar10_resnet20", pretrained=True).class_names == names
    assert create_model("cifar10_resnet20", pretrained=True, num_classes=3).class_names is None
    assert create_model("cifar10_resnet20").class_names is None


def test_pretrained_model_of_other_classes_has_a_new_classifier(published):
    _, trained = published
    model = create_model("cifar10_resnet20", pretrained=True, num_classes=3).eval()
    x = torch.rand(2, 6, 16, 16)
    assert model(x).shape == (2, 3)
    assert model.logit_layer.logit_bias == pytest.approx(-0.6931472)
    torch.testing.assert_close(model.forward_features(x), trained.eval().forward_features(x))


def test_weights_may_be_a_url(published):
    _, trained = published
    url = get_spec("cifar10_resnet20").checkpoint.url
    model = create_model("cifar10_resnet20", weights=url)
    torch.testing.assert_close(model.fc.weight, trained.fc.weight)


def test_timm_loads_the_published_weights_through_us(published):
    import timm

    _, trained = published
    model = timm.create_model("bcos_cifar10_resnet20", pretrained=True, num_classes=4)
    torch.testing.assert_close(model.conv1.weight, trained.conv1.weight)
    assert model.num_classes == 4


def test_timm_passes_its_cache_folder_on(published, tmp_path):
    import timm

    files, trained = published
    model = timm.create_model("bcos_cifar10_resnet20", pretrained=True, cache_dir=tmp_path / "other", num_classes=4)
    torch.testing.assert_close(model.conv1.weight, trained.conv1.weight)
    assert list((tmp_path / "other").glob("weights-*.pth"))
    assert len(files.requests) == 1


def test_overlay_of_timm_that_names_no_weights_keeps_ours(published):
    import timm

    _, trained = published
    overlay = {"crop_pct": 0.9}
    model = timm.create_model("bcos_cifar10_resnet20", pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(model.conv1.weight, trained.conv1.weight)
    assert model.pretrained_cfg["crop_pct"] == 0.9


def test_every_published_file_has_digits_that_are_checked():
    from bcos_models import model_specs

    checkpoints = [spec.checkpoint for spec in model_specs() if spec.checkpoint is not None]
    published = [checkpoint for checkpoint in checkpoints if checkpoint.url.startswith("https:")]
    assert len(published) == len({c.url for c in published}) == 34
    for checkpoint in published:
        assert re.fullmatch("[0-9a-f]{10}", checkpoint.sha256)
        assert checkpoint.url.endswith(f"-{checkpoint.sha256}.pth")
        assert checkpoint.license


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """cifar10_resnet20 with weights in an installed package, and names of its outputs; the trained network."""
    from bcos_models import plugins, save_weights

    torch.manual_seed(2)
    trained = create_model("cifar10_resnet20").eval()
    package = tmp_path / "weights_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    save_weights(trained, package / "small.safetensors")
    monkeypatch.syspath_prepend(str(tmp_path))
    checkpoint = Checkpoint("package:weights_of_mine/small.safetensors", class_names=tuple("abcdefghij"))
    spec = get_spec("cifar10_resnet20")
    monkeypatch.setitem(plugins.registry()._specs, spec.name, replace(spec, checkpoint=checkpoint))
    return trained


def test_weights_come_with_a_package(shipped):
    from bcos_models import load_trained

    model = create_model("cifar10_resnet20", pretrained=True).eval()
    x = torch.rand(2, 6, 16, 16)
    torch.testing.assert_close(model(x), shipped(x))
    assert model.class_names == list("abcdefghij")
    assert load_trained("cifar10_resnet20").classes == list("abcdefghij")
    import timm

    torch.testing.assert_close(timm.create_model("bcos_cifar10_resnet20", pretrained=True).eval()(x), shipped(x))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("package:weights_of_mine/other.safetensors", "package 'weights_of_mine' lacks its file 'other.safetensors'"),
        ("package:no_such_package/x.safetensors", "names no installed package"),
        ("package:/x.safetensors", "names no installed package"),
    ],
)
def test_package_without_the_weights_is_named(shipped, url, problem):
    with pytest.raises(BcosError, match=problem):
        find_weights(Checkpoint(url))


@pytest.mark.parametrize("options", [{"b": 1.5}, {"antialias": "blurpool"}, {"logit_temperature": 2.0}])
def test_options_that_the_published_weights_were_not_trained_with_are_named(published, options):
    (name, value), *_ = options.items()
    with pytest.warns(UserWarning, match=f"were trained without {name}={value!r}"):
        create_model("cifar10_resnet20", pretrained=True, **options)


def test_options_that_change_no_output_are_not_named(published):
    create_model("cifar10_resnet20", pretrained=True, b=2, drop_path=0.1)  # warnings are errors
