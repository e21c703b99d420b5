"""Damaging shards."""

import io
import tarfile


def replace_members(path, contents, suffix):
    """Give members of a shard, numbered among those that end with `suffix`, other contents."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    number = 0
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            if name.endswith(suffix):
                data = contents.get(number, data)
                number += 1
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
