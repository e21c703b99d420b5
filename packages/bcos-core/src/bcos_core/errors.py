"""The one exception type for a caller's mistake."""

_LONGEST = 300
"""Characters of what a message quotes."""


class BcosError(ValueError):
    """A caller's mistake; the message says what was given, what is needed and what to do.

    The command line prints it as one line and exits with status 2. Anything else that is raised is a bug.
    """


def first_line(reason: BaseException) -> str:
    """First line of what an exception says, shortened; its type where it says nothing."""
    try:
        text = str(reason).strip()
    except Exception:  # of a stranger's exception
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
