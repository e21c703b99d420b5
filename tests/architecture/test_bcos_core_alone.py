import pytest


@pytest.mark.slow
def test_core_alone_builds_trains_and_explains(root, fresh_environment):
    run = fresh_environment(root / "packages/bcos-core")
    run(root / "tests/architecture/bcos_core_alone.py")
    installed = run(
        "-c", "from importlib.metadata import distributions as d; print(*{x.name.lower() for x in d()})"
    ).split()
    assert "bcos-core" in installed
    assert not {"pluggy", "timm", "torchvision", "pillow", "safetensors", "bcos-models"} & set(installed)
