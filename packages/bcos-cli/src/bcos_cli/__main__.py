"""The process of ``bcos`` and of ``python -m bcos_cli``, which ``accelerate launch -m`` and ``torchrun -m`` start."""

import logging
import sys
import warnings
from collections.abc import Callable

from bcos_cli.processes.parent import end_with_launcher
from bcos_cli.processes.signals import Interrupts


def main() -> None:
    """Run the program and exit with its status; Ctrl-C shows no traceback, whenever it comes."""
    interrupts = Interrupts()
    sys.unraisablehook = _unraisable_hook(interrupts)
    interrupts.listen()
    end_with_launcher()
    try:
        from bcos_cli.main import main as program
        from bcos_core.text import printable

        format_warning = warnings.formatwarning  # names in warnings and logs may come from strangers
        warnings.formatwarning = lambda *warning, **more: printable(format_warning(*warning, **more), keep="\n")
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(_PrintableLog())

        program()
    except KeyboardInterrupt:  # before the program could handle it
        interrupts.end()
    finally:
        interrupts.listen()  # again: launchers install handlers of their own
        interrupts.leaving = True


def _unraisable_hook(interrupts: Interrupts) -> Callable[["sys.UnraisableHookArgs"], None]:
    """Return a hook that ends the process where Python would only report an interrupt, as in a destructor."""

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            interrupts.end()
        sys.__unraisablehook__(unraisable)

    return hook


class _PrintableLog(logging.Formatter):
    """Format of what libraries log, names in which may come from strangers."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        from bcos_core.text import printable

        return printable(super().format(record), keep="\n")


if __name__ == "__main__":
    main()
