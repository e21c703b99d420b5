"""Archives of images, tables of labels, and annotations."""

import io
import zipfile

from hypothesis import strategies as st
from mutations import damaged, json_files
from PIL import Image

from bcos_cli.data.sources import open_source
from bcos_cli.data.sources.table import LabelTable
from bcos_cli.evaluate.photos import read_annotations
from bcos_core.errors import BcosError

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 2, 2], "segmentation": {"counts": [32, 32], "size": [8, 8]}},
    ],
}
VOC = b"""<annotation><filename>a.png</filename><size><width>8</width><height>8</height></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"""
BOMB = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">%s]><annotation>&j;</annotation>' % b"".join(
    b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in b"bcdefghij"
)
OUTSIDE = b'<!DOCTYPE a [<!ENTITY a SYSTEM "../secret.txt">]><annotation><filename>&a;</filename></annotation>'
TABLE = b"image,labels,split\na.png,cat;dog,train\nb.png,cat,test\n"


FAILED = [
    ("xml", BOMB),
    ("xml", OUTSIDE),
    ("json", b"9" * 5000),
    ("json", b'{"images": [{"id": 1, "height": 1e999, "width": 1}], "categories": [], "annotations": []}'),
    ("json", b'{"annotation": {"filename": "a", "size": {"height": 1, "width": 1}, "object": [1e999]}}'),
]


def archive(method):
    picture, stream = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with zipfile.ZipFile(stream, "w", method) as file:
        for name in ("train/cat/0.png", "train/dog/0.png", "train/cat/1.png"):
            file.writestr(name, picture.getvalue())
    return stream.getvalue()


def test_annotations_are_read_or_refused_in_one_line(fuzz, folder):
    def read(choice):
        suffix, content = choice
        (folder / f"a.{suffix}").write_bytes(content)
        read_annotations(folder / f"a.{suffix}", masks=True)

    read(("xml", VOC))
    coco = json_files(COCO).map(lambda content: ("json", content))
    voc = damaged([VOC, VOC, BOMB, OUTSIDE]).map(lambda content: ("xml", content))
    fuzz(read, coco | voc, known=FAILED, examples=200)


def test_a_table_of_labels_is_read_or_refused_in_one_line(fuzz, folder):
    def read(content):
        (folder / "labels.csv").write_bytes(content)
        LabelTable(folder / "labels.csv").rows()
        LabelTable(folder / "labels.csv", labels=["l*", "*t"]).rows()

    fuzz(
        read,
        damaged([TABLE, TABLE.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + TABLE, b'"' + TABLE]),
        known=[b'"' + TABLE],
    )


def test_an_archive_is_read_or_refused_in_one_line(fuzz, folder):
    def read(content):
        (folder / "a.zip").write_bytes(content)
        source = open_source(str(folder / "a.zip"))
        for item in source.items:
            try:
                source.read(item)
            except BcosError:
                continue

    valid = [archive(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)]
    no_member, no_directory = b"\x00" + valid[0][1:], valid[0].replace(b"PK\x01\x02", b"PK\x01\x03")
    fuzz(read, damaged(valid) | st.just(b"PK\x05\x06" + bytes(18)), known=[no_member, no_directory])
