"""Processes: how several are started, end in order, and exchange numbers."""

from contextvars import ContextVar

given_arguments: ContextVar[list[str]] = ContextVar("bcos_arguments")
"""Arguments of the running command, with which the launcher starts further processes."""
