"""Packages whose public names are imported on first use. Imports no torch."""

import ast
import pkgutil
from collections.abc import Callable
from importlib import import_module


def attach_stub(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` for a package with an ``__init__.pyi``.

    That stub, which type checkers and editors read, imports all public names: it is the one list of them, as for
    lazy_loader's function of that name.
    """
    stub = ast.parse(pkgutil.get_data(package, "__init__.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}
    public = sorted(homes)

    def getattribute(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            return import_module(f"{package}.{name}")
        return getattr(import_module(homes[name]), name)

    return getattribute, lambda: [*public, "__version__"], public
