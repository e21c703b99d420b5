"""Processes: what ends them, who starts them, how they count together."""

from contextvars import ContextVar

given_arguments: ContextVar[list[str]] = ContextVar("bcos_arguments")
"""What the running command was called with, for those that start processes of their own."""
