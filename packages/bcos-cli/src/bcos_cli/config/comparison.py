"""Recipes by their dotted keys, and the differences between two. Imports no torch."""

from typing import Any


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two recipes differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) or isinstance(right, dict):
            found |= differences(left or {}, right or {}, f"{prefix}{key}.")
        elif left != right:
            found[f"{prefix}{key}"] = left, right
    return found


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
