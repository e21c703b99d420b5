"""Refuse circles of imports in our packages, imports inside functions counted. Run by ``nox -s types``."""

import sys

import grimp

PACKAGES = ("bcos_core", "bcos_models", "bcos_explain", "bcos_cli")


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components, Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        path.append(module)
        for other in sorted(imports[module]):
            if other not in number:
                visit(other)
            if other in path:
                low[module] = min(low[module], low[other])
        if low[module] == number[module]:
            start = path.index(module)
            found.append(sorted(path[start:]))
            del path[start:]

    for module in sorted(imports):
        if module not in number:
            visit(module)
    return [group for group in found if len(group) > 1]


def main() -> None:
    """Print the circles, and end with status 1 if there are any."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=False, exclude_type_checking_imports=True)
    found = circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    for group in found:
        print("import circle:", ", ".join(group))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
