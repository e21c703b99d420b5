"""The one exception type for a caller's mistake."""

_LONGEST = 300
"""Longest quotation in a message, in characters."""


class BcosError(ValueError):
    """A caller's mistake; the message says what was given, what is needed and what to do.

    The command line prints it as one line and exits with status 2. Anything else that is raised is a bug.
    """


def first_line(reason: BaseException) -> str:
    """First line of an exception's message, shortened; its type if the message is empty."""
    try:
        text = str(reason).strip()
    except Exception:  # which third-party code may raise here too
        text = ""
    return shortened(text.splitlines()[0]) if text else type(reason).__name__


def shortened(text: str, most: int = _LONGEST) -> str:
    """The text with at most `most` characters; what is left out of its end is shown as ``…``."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown(value: object, most: int = 100) -> str:
    """``repr`` of a value for a message, with at most `most` characters."""
    try:
        return shortened(repr(value), most)
    except ValueError:  # an integer of thousands of digits
        return f"a large {type(value).__name__}"
