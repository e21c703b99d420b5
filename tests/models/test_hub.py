"""Folders and repositories that hold a model whole; the hub is a server of the test's own."""

import base64
import importlib.util
import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch

from bcos_core import BcosError
from bcos_models import create_model, from_pretrained, load_trained, push_to_hub, save_pretrained

_spec = importlib.util.spec_from_file_location("models_test_server", Path(__file__).with_name("server.py"))
server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(server)

NAMES = ["a", "b", "c", "d", "e"]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_family_comes_back_from_its_folder(small, encoded, family, tmp_path):
    small = small.float()
    folder = save_pretrained(small, tmp_path / "new" / "net", class_names=NAMES)
    model = from_pretrained(folder)
    assert not model.training
    assert model.class_names == NAMES
    assert model.transform == small.transform
    assert same(model, small)
    x = encoded(family[0]).float()
    torch.testing.assert_close(model(x), small(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return create_model("cifar10_resnet20", num_classes=5, depths=(1,), width=4, b=1.5)


def test_replaced_classifier_is_saved_with_its_classes(net, tmp_path):
    net.reset_classifier(3)
    assert from_pretrained(save_pretrained(net, tmp_path)).num_classes == 3


def test_network_without_classifier_comes_back(net, tmp_path):
    net.reset_classifier(0)
    assert from_pretrained(save_pretrained(net, tmp_path)).num_classes == 0


def test_compiled_network_comes_back(net, tmp_path):
    assert same(from_pretrained(save_pretrained(torch.compile(net), tmp_path)), net)


def test_class_names_travel_on(net, tmp_path):
    first = from_pretrained(save_pretrained(net, tmp_path / "a", class_names=NAMES))
    assert from_pretrained(save_pretrained(first, tmp_path / "b")).class_names == NAMES
    first.reset_classifier(2)
    assert from_pretrained(save_pretrained(first, tmp_path / "c")).class_names is None


def test_card_that_is_there_is_kept(net, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(net, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def build_plain(*, num_classes, in_chans):
    return torch.nn.Sequential(torch.nn.Conv2d(in_chans, num_classes, 1), torch.nn.Flatten())


def test_strangers_model_comes_back(entry_points, monkeypatch, tmp_path):
    import sys

    from bcos_models import ModelSpec, hookimpl

    class Stranger:
        @hookimpl
        def bcos_models_specs(self):
            return [ModelSpec("plain", "strangers_module:build_plain", "plain", num_classes=10)]

    module = type(sys)("strangers_module")
    module.build_plain = build_plain
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry_points(zoo=Stranger)
    made = create_model("plain", num_classes=3)
    model = from_pretrained(save_pretrained(made, tmp_path, class_names=["a", "b", "c"]))
    assert same(model, made)
    assert model.class_names == ["a", "b", "c"]


def test_card_tells_what_the_model_is(net, tmp_path):
    save_pretrained(net, tmp_path, description="Trained on **digits**.", license="mit")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n")
    for part in (
        "license: mit",
        "b-cos",
        "pipeline_tag: image-classification",
        "# cifar10_resnet20",
        "digits",
        "32×32",
    ):
        assert part in card
    assert "| b | `1.5` |" in card


def test_card_shows_nested_options_by_their_keys(tmp_path):
    network = {"zero_init_residual": True}
    save_pretrained(create_model("torchvision/resnet18", num_classes=3, b=1.5, network=network), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| b | `1.5` |\n" in card
    assert "| network.zero_init_residual | `true` |\n" in card
    assert "{'" not in card


def edit(folder, *, num_classes=5, **described):
    """Change what config.json says."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["num_classes"] = num_classes
    config["bcos_models"] |= described
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "holds no config.json; give a folder that save_pretrained wrote",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors; give a folder"),
        (lambda folder: (folder / "config.json").write_text("{"), "holds no model that save_pretrained wrote"),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            "garbles it: bcos_models must be a mapping",
        ),
        (lambda folder: edit(folder, options=None), "holds no model that save_pretrained wrote"),
        (lambda folder: edit(folder, input=[]), "holds no model that save_pretrained wrote"),
        (
            lambda folder: edit(folder, options={"weights": "/etc/passwd"}),
            "weights cannot stand among the options",
        ),
        (lambda folder: edit(folder, options={"width": "x"}), "width must be at least 1, got 5, 6 and 'x'"),
        (lambda folder: edit(folder, options={"depths": 3}), "'cifar10_resnet20' cannot be built with"),
        (lambda folder: edit(folder, num_classes=4), r"fc.weight has shape \(5, 4, 1, 1\), needs \(4, 4, 1, 1\)"),
    ],
)
def test_damaged_folder_is_named(change, message, net, tmp_path):
    save_pretrained(net, tmp_path)
    change(tmp_path)
    with pytest.raises(BcosError, match=message):
        from_pretrained(tmp_path)


def test_models_from_elsewhere_and_wrong_names_are_refused(net, tmp_path):
    with pytest.raises(BcosError, match=r"the model \(Linear\) was not made by bcos_models.create_model"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "a")
    with pytest.raises(BcosError, match="class_names must name the 5 outputs, got 2"):
        save_pretrained(net, tmp_path / "a", class_names=["x", "y"])
    net.bcos_config.options["norm"] = object()
    with pytest.raises(BcosError, match="cannot write the options of 'cifar10_resnet20' as JSON"):
        save_pretrained(net, tmp_path / "a")
    assert not (tmp_path / "a").exists()


COMMIT = "0" * 39 + "1"


def _hub(stored, log):
    """As much of the hub as downloading and uploading small files takes."""

    class Hub(BaseHTTPRequestHandler):
        def _send(self, status, body=b"", **headers):
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, value):
            self._send(200, json.dumps(value).encode(), Content_Type="application/json")

        def do_GET(self):
            path = urlparse(self.path).path
            log.append((self.command, path))
            parts = path.strip("/").split("/")
            if "resolve" in parts:
                owner, repository, _, _, name = parts
                data = stored.get((f"{owner}/{repository}", name))
                if data is None:
                    known = any(key[0] == f"{owner}/{repository}" for key in stored)
                    self._send(404, X_Error_Code="EntryNotFound" if known else "RepoNotFound")
                    return
                self._send(200, data, ETag=f'"{hash(data) & 0xFFFFFFFF:x}"', X_Repo_Commit=COMMIT)
            else:
                self._json({"id": "me/net", "sha": COMMIT, "siblings": [], "private": False})

        do_HEAD = do_GET  # noqa: N815 - reason: the base class's name

        def do_POST(self):
            path = urlparse(self.path).path
            log.append((self.command, path))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if path.endswith("/repos/create"):
                self._json({"url": f"http://{self.headers['Host']}/me/net", "id": "me/net", "name": "me/net"})
            elif "preupload" in path:
                files = json.loads(body)["files"]
                self._json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif "validate-yaml" in path:
                self._json({"warnings": [], "errors": []})
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        stored["me/net", line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                url = f"http://{self.headers['Host']}/me/net/commit/{COMMIT}"
                self._json({"commitUrl": url, "commitOid": COMMIT, "success": True})

        def log_message(self, *_):
            pass

    return Hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's files by (repository, name), and the requests."""
    from huggingface_hub import constants

    stored, log = {}, []
    with server.served(_hub(stored, log)) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        older = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"  # has a copy of its own
        monkeypatch.setattr(older, template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        yield stored, log


def test_pushed_model_comes_back_from_the_hub(net, hub):
    stored, _ = hub
    assert push_to_hub(net, "me/net", class_names=NAMES, token="hf_x").endswith("/me/net")
    assert {name for _, name in stored} == {"README.md", "config.json", "model.safetensors"}
    for source in ("me/net", "hf://me/net", "hf://me/net@main"):
        model = from_pretrained(source)
        assert same(model, net)
        assert model.class_names == NAMES
    weights_only = create_model("cifar10_resnet20", weights="hf://me/net", num_classes=5, depths=(1,), width=4, b=1.5)
    assert same(weights_only, net)


def test_timm_opens_the_repository_too(net, hub):
    import timm

    push_to_hub(net, "me/net", token="hf_x")
    assert same(timm.create_model("hf-hub:me/net", pretrained=True), net)
    other = timm.create_model("hf-hub:me/net", pretrained=True, num_classes=7)
    assert other.num_classes == 7
    assert torch.equal(other.conv1.weight, net.conv1.weight)


def test_card_on_the_hub_is_kept(net, hub):
    stored, _ = hub
    push_to_hub(net, "me/net", token="hf_x")
    stored["me/net", "README.md"] = b"edited"
    push_to_hub(net, "me/net", token="hf_x")
    assert stored["me/net", "README.md"] == b"edited"


def test_second_load_uses_the_cache(net, hub):
    _, log = hub
    push_to_hub(net, "me/net", token="hf_x")
    from_pretrained("me/net")
    log.clear()
    from_pretrained("me/net")
    assert all(method == "HEAD" for method, _ in log)


@pytest.mark.parametrize("source", ["me/nothing", "no slashes at all/but/three", "hf://me/net"], ids=str)
def test_missing_repository_is_one_line(source, hub):
    with pytest.raises(
        BcosError, match=r"cannot get config.json of '.*' from the Hugging Face hub: .*; check the name"
    ):
        from_pretrained(source)


def test_hub_that_does_not_answer_is_one_line(net, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr("time.sleep", lambda _: None)  # between its attempts
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(BcosError, match=r"cannot get config.json of 'me/net' from the Hugging Face hub"):
        from_pretrained("me/net")
    with pytest.raises(BcosError, match=r"cannot upload to 'me/net': .*; check its name, your token and the network"):
        push_to_hub(net, "me/net", token="hf_x")


@pytest.mark.parametrize("load", [from_pretrained, lambda _: load_trained("timm/resnet18")], ids=["hub", "timm"])
def test_hub_that_cannot_be_reached_is_told_at_once(load, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(BcosError, match=r"http://127\.0\.0\.1:9 cannot be reached \(.*refused\), and its cache lacks"):
        load("me/net")
    assert time.monotonic() - begin < 10
    assert not constants.HF_HUB_OFFLINE
