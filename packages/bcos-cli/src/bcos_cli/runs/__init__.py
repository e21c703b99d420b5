"""``bcos runs``: the runs of a folder, listed, shown and compared."""
