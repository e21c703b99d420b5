"""The one exception type for a caller's mistake."""


class BcosError(ValueError):
    """A caller's mistake; the message says what was given, what is needed and what to do.

    The command line prints it as one line and exits with status 2. Anything else that is raised is a bug.
    """


def first_line(reason: BaseException) -> str:
    """First line of what an exception says; its type where it says nothing."""
    try:
        text = str(reason).strip()
    except Exception:  # of a stranger's exception
        text = ""
    return text.splitlines()[0] if text else type(reason).__name__
