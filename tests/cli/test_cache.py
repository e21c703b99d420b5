"""Copies of remote shards: fetched once, whole or not at all, bounded."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from http_server import serving

from bcos_cli.data.cache import MARKER, ShardCache
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.pack import pack
from bcos_cli.data.reading import Reading
from bcos_cli.data.remote import open_url
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_core import BcosError
from bcos_models import InputSpec

SPEC = InputSpec(size=8, resize=None)


def packed(folder, grey=0):
    items = [ImageItem(f"{i}.png", "train", i % 2) for i in range(12)]
    pngs = {item.path: encode_png(np.full((8, 8, 3), grey + i)) for i, item in enumerate(items)}
    return pack(ArraySource(["even", "odd"], items, pngs), "s", folder, samples_per_shard=5, workers=1)


@pytest.fixture
def server(tmp_path):
    packed(tmp_path / "web" / "a")
    packed(tmp_path / "web" / "b", grey=100)
    with serving(tmp_path / "web") as made:
        yield made


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def copies(folder):
    return sorted(
        p.name.partition("-")[2] for p in folder.iterdir() if p.name != MARKER and not p.name.endswith(".lock")
    )


def all_of(url, folder, **options):
    index = load_index(url)
    batches = make_batches(url, index, "train", SPEC, batch_size=3, reading=Reading(cache=str(folder)), **options)
    return sorted(int(image[0, 0, 0]) for images, _, _ in batches.epoch(0) for image in images)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_fetched_once_and_read_from_their_copies(workers, server, folder):
    for _ in range(3):
        assert all_of(f"{server.url}/a", folder, workers=workers) == list(range(12))
    shards = {name: count for name, count in server.asked.items() if name.endswith(".tar")}
    assert len(shards) == 3
    assert set(shards.values()) == {1}
    assert copies(folder) == sorted(shards)


def test_shards_of_the_same_name_do_not_mix(server, folder):
    for _ in range(2):
        assert all_of(f"{server.url}/a", folder) == list(range(12))
        assert all_of(f"{server.url}/b", folder) == list(range(100, 112))


def test_least_recently_used_copies_make_room(server, folder):
    index = load_index(f"{server.url}/a")
    urls = [f"{server.url}/a/{shard.name}" for shard in index.shards]
    sizes = [shard.bytes for shard in index.shards]
    folder.mkdir()
    cache = ShardCache(str(folder), sum(sizes) - 1)
    for url in (urls[0], urls[1], urls[0], urls[2]):
        cache(url).close()
    assert copies(folder) == [Path(urls[0]).name, Path(urls[2]).name]
    ShardCache(str(folder), 1)(urls[1]).close()  # smaller than any shard
    assert copies(folder) == [Path(urls[1]).name]


def test_download_that_breaks_off_is_an_error_and_leaves_nothing(server, folder):
    server.broken.add("train-000001.tar")
    with pytest.raises(BcosError, match=r"cannot open the shard '.*train-000001.tar'") as error:
        all_of(f"{server.url}/a", folder)
    assert "\n" not in str(error.value)
    assert copies(folder) == ["train-000000.tar"]
    server.broken.clear()
    assert all_of(f"{server.url}/a", folder) == list(range(12))


def test_shard_that_is_not_there_leaves_nothing(server, folder):
    cache = ShardCache(str(folder), 10**9)
    with pytest.raises(OSError, match=r"."):
        cache(f"{server.url}/a/nothing.tar")
    assert copies(folder) == []


def test_local_shards_are_not_copied(tmp_path, folder):
    packed(tmp_path / "here")
    assert all_of(str(tmp_path / "here"), folder) == list(range(12))
    assert copies(folder) == []


def test_many_at_once_get_the_same(server, folder):
    cache = Reading(cache=str(folder), cache_gb=1.0).opener()
    name = load_index(f"{server.url}/a").shards[0].name
    whole = (Path(server.RequestHandlerClass.keywords["directory"]) / "a" / name).read_bytes()

    def read(_):
        with cache(f"{server.url}/a/{name}") as stream:
            return stream.read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(16))) == {whole}
    assert server.asked[name] == 1


def test_shard_that_is_removed_while_it_is_read_is_read_to_its_end(server, folder):
    first, second = [f"{server.url}/a/{shard.name}" for shard in load_index(f"{server.url}/a").shards[:2]]
    folder.mkdir()
    cache = ShardCache(str(folder), 1)
    with cache(first) as stream:
        start = stream.read(100)
        cache(second).close()
        assert copies(folder) == [Path(second).name]
        whole = start + stream.read()
    with cache(first) as stream:
        assert stream.read() == whole


def test_no_cache_and_no_folder_for_one(tmp_path):
    assert Reading().opener() is open_url
    (tmp_path / "file").write_text("")
    with pytest.raises(BcosError, match=r"cannot make the folder data.cache='.*/file/x': .*; choose another"):
        Reading(cache=str(tmp_path / "file" / "x")).opener()


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "deep/x", "0123456789abcdef0123456789abcdef-x.tar", MARKER])
def test_a_folder_with_other_things_is_refused_and_left_as_it_is(name, folder):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    before = everything(folder)
    with pytest.raises(BcosError, match=r"data.cache='.*' is not a cache of shards: it holds '.*'; choose an") as error:
        Reading(cache=str(folder), cache_gb=1e-9).opener()
    assert Path(name).parts[0] in str(error.value)
    assert {k: v for k, v in everything(folder).items() if k != ".room.lock"} == before


def test_loaders_do_not_take_documents_for_a_cache(shards, folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(BcosError, match=r"is not a cache of shards: it holds 'thesis.txt'"):
        all_of(shards, folder)
    assert everything(folder) == {"thesis.txt": b"mine"}


def test_only_copies_make_room(server, folder, tmp_path):
    index = load_index(f"{server.url}/a")
    urls = [f"{server.url}/a/{shard.name}" for shard in index.shards]
    cache = ShardCache(str(folder), 1)
    cache(urls[0]).close()
    (copy,) = [p for p in folder.iterdir() if p.name.endswith(".tar")]
    (tmp_path / "victim").write_text("mine")
    (folder / "thesis.tar").write_text("mine")
    (folder / ("f" * 32 + "-link.tar")).symlink_to(tmp_path / "victim")
    (folder / ("e" * 32 + "-folder")).mkdir()
    kept = set(folder.iterdir()) - {copy}
    cache(urls[1]).close()
    assert not copy.exists()
    assert kept <= set(folder.iterdir())
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_folder_whose_mark_is_gone_is_used_no_more(server, folder):
    urls = [f"{server.url}/a/{shard.name}" for shard in load_index(f"{server.url}/a").shards]
    cache = ShardCache(str(folder), 1)
    cache(urls[0]).close()
    (folder / MARKER).unlink()
    with pytest.raises(BcosError, match=f"has lost its {MARKER}; remove that folder"):
        cache(urls[1])
    assert copies(folder) == ["train-000000.tar"]
    with pytest.raises(BcosError, match="is not a cache of shards"):
        ShardCache(str(folder), 1)


def test_many_processes_may_claim_a_folder_at_once(folder):
    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(lambda _: ShardCache(str(folder), 1), range(64)))) == 64


def test_a_copy_that_is_not_a_file_is_not_waited_for(server, folder):
    url = f"{server.url}/a/train-000000.tar"
    cache = ShardCache(str(folder), 1)
    cache(url).close()
    (copy,) = [p for p in folder.iterdir() if p.name.endswith(".tar")]
    copy.unlink()
    os.mkfifo(copy)
    with pytest.raises(OSError, match="is not a regular file"):
        cache(url)


def test_names_of_copies_are_short_and_plain(folder):
    from bcos_cli.data.cache import _name

    assert len(_name("http://h/" + "ä" * 5000)) <= 113
    assert _name("pipe:cat 'a b'; x/$y\n.tar").endswith("-_y_.tar")
