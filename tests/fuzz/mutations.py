"""Strategies: valid files and values, damaged a little or in a hostile way."""

import copy
import json

from hypothesis import strategies as st
from watch import CANARY, SECRET

_WHOLE = 2**16
_positions = st.integers(0, _WHOLE - 1)


def chosen(values):
    """One of several values, which a report of a failure does not list."""
    return st.integers(0, len(values) - 1).map(lambda i: values[i])


_edits = st.tuples(
    st.sampled_from(["set", "flip", "cut", "insert", "repeat", "drop", "largest"]),
    _positions,
    st.booleans(),
    _positions,
    st.binary(min_size=1, max_size=8),
)


def damaged(valid):
    """Bytes of one of several valid files, with a few edits; half of them near the beginning, where headers are."""
    return st.builds(_damage, chosen(list(valid)), st.lists(_edits, min_size=1, max_size=4))


def _damage(content, edits):
    content = bytearray(content)
    for action, position, near, amount, data in edits:
        at = position * len(content) // _WHOLE
        at = at % 200 if near and content else at
        length = 1 + amount % 64
        if action == "set":
            content[at : at + len(data)] = data
        elif action == "flip" and content:
            content[at] ^= 1 << amount % 8
        elif action == "cut":
            del content[at:]
        elif action == "insert":
            content[at:at] = data * (1 + amount % 40)
        elif action == "repeat":
            content[at:at] = content[at : at + length] * (1 + amount % 20)
        elif action == "drop":
            del content[at : at + length]
        else:
            content[at : at + amount % 8 + 1] = b"\xff" * (amount % 8 + 1)
    return bytes(content)


def _nested(depth, kind):
    value = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


HOSTILE = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, -(2**70)),
    *("", " ", ".", "..", "/", "~", "a" * 5000, "\x00", "\x1b[2J", "a\nbcos: forged", "\ud800", "\u202ea", "٣", "1e3"),
    *(f"../{SECRET}", f"a/../../{SECRET}", f"/{SECRET}", f"\\\\host\\{SECRET}", f"C:{SECRET}", f"file:../{SECRET}"),
    *(
        "/etc/passwd",
        "/dev/zero",
        "file:///etc/passwd",
        "http://127.0.0.1:9/a",
        "https://[",
        "s3://bucket/a",
        "hf://a/b",
    ),
    *(
        "pipe:touch x",
        "PIPE:id",
        "gs://a|id",
        "$(id)",
        "`id`",
        "; id",
        "{a..z}",
        "%s%n",
        "__import__",
        "!!python/name:os",
    ),
    *(f"{CANARY}:run", f"{CANARY}.run", "os:system", "builtins:eval", "timm/resnet18", "torchvision/resnet18"),
    *("cifar10_resnet20", "train", "test", "tensorboard", "bcos", "top1", "epochs", "name", "nan", "null", "true"),
    *([], {}, [[]], [None], {"": ""}, [1, 2, 3], ["a"], {"a": 1}, {"name": 1}, [1] * 3000, _nested(60, list)),
    *(_nested(60, dict), {str(i): i for i in range(300)}),
]

_changes = st.tuples(
    st.sampled_from(["replace", "replace", "replace", "remove", "add", "swap", "wrap"]),
    st.integers(0, 10**6),
    chosen(HOSTILE) | st.integers() | st.floats() | st.text(max_size=20),
)


def altered(valid):
    """One of several documents of lists, mappings, numbers and text, with values replaced, removed and added."""
    return st.builds(_alter, chosen(list(valid)), st.lists(_changes, min_size=1, max_size=3))


def _alter(document, changes):
    document = copy.deepcopy(document)
    for action, pick, hostile in changes:
        value = copy.deepcopy(hostile)  # else it could come to lie in itself
        places = list(_places(document))
        if not places:
            return value
        parent, key = places[pick % len(places)]
        if action == "replace":
            parent[key] = value
        elif action == "wrap":
            parent[key] = [parent[key]]
        elif action == "remove":
            del parent[key]
        elif action == "swap":
            other, name = places[pick // 7 % len(places)]
            parent[key] = copy.deepcopy(other[name])
        elif isinstance(parent, dict):
            parent[value if isinstance(value, str) else str(value)[:40]] = value
        else:
            parent.insert(key, value)
    return document


def _places(value):
    """(container, key) of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def json_files(*valid):
    """JSON of altered documents, and damaged JSON."""
    texts = [json.dumps(document, indent=1).encode() for document in valid]
    return altered(valid).map(as_json) | damaged(texts) | chosen(_ODD_JSON)


def as_json(document):
    return json.dumps(document).encode("utf-8", "surrogatepass")


_ODD_JSON = [
    b"",
    b"null",
    b"[]",
    b'"a"',
    b"1",
    b"NaN",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"a": 1, "a": 2}',
    b"9" * 5000,
    b'"\\ud800"',
    b"{}\n" * 100,
    b"\x00" * 1000,
]
