"""Recipes by their dotted keys, and the differences between two. Imports no torch."""

from typing import Any


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two recipes differ, with both values; None is as good as no value."""
    left, right = flat(a), flat(b)
    both = {key: (left.get(key), right.get(key)) for key in sorted(left.keys() | right.keys())}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
