"""Check of the plugins: which load, which do not, and how long they take. Imports no torch."""

from bcos_cli.doctor.finding import Findings, note, ok, problem, some
from bcos_cli.plugins import all_plugins

SLOW = 0.2
"""Import time in seconds from which a plugin is noted: every command waits for it."""


def check_plugins() -> Findings:
    """Check that all plugins load."""
    found = all_plugins()
    for info in found:
        if info.error is not None:
            yield problem(f"{info.name} ({info.value}) is broken: {info.error}; fix or uninstall {info.distribution}")
    for info in found:
        if info.seconds > SLOW:
            yield note(f"{info.name} takes {1000 * info.seconds:,.0f} ms to import; every command waits for it")
    third_party = [info.name for info in found if not info.distribution.startswith("bcos-")]
    more = f"; third-party: {some(third_party)}" if third_party else ""
    yield ok(f"{len(found)} plugins, imported in {1000 * sum(i.seconds for i in found):,.0f} ms{more}")
