"""Import every module of a package, with nothing installed but what it declares. Run by ``nox -s isolated``."""

import importlib
import pkgutil
import sys

OPTIONAL = {
    "gradio",
    "gradio_client",
    "starlette",
    "uvicorn",
    "fastapi",
    "av",
    "quantus",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
}
"""What extras of the packages bring."""


def main(package: str) -> None:
    """Print how many modules were imported; modules of extras that are not installed are left out."""
    count = 0
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as reason:
            if (reason.name or "").partition(".")[0] not in OPTIONAL:
                raise
        else:
            count += 1
    print(f"{count} modules of {package}")


if __name__ == "__main__":
    main(sys.argv[1])
