"""Recipes that a user names, and the ``config.yaml`` of a run."""

import pytest
from hypothesis import strategies as st
from mutations import altered
from recipe_files import FILES, RECIPE, TEXT, as_yaml

from bcos_cli.config import dump_recipe, load_recipe


@pytest.mark.parametrize("name", ["recipe.yaml", "config.yaml"])
def test_a_recipe_is_read_or_refused_in_one_line(fuzz, folder, name):
    def read(content):
        (folder / name).write_bytes(content)
        dump_recipe(load_recipe(str(folder / name)))

    fuzz(read, FILES, examples=150)


def test_an_override_is_taken_or_refused_in_one_line(fuzz, folder):
    (folder / "valid.yaml").write_bytes(TEXT)
    keys = st.sampled_from(["model", "model.name", "train.epochs", "data", "evaluation.metrics", "a", "", "."])
    values = altered([RECIPE]).map(as_yaml).map(bytes.decode) | st.text(max_size=30)
    given = st.builds("{}={}".format, keys | st.text(max_size=10), values)

    fuzz(lambda text: load_recipe(str(folder / "valid.yaml"), [text]), given, examples=100)
