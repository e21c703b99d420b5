"""The one exception type for a caller's mistake."""


class BcosError(ValueError):
    """A caller's mistake; the message says what was given, what is needed and what to do.

    The command line prints it as one line and exits with status 2. Anything else that is raised is a bug.
    """
