"""The local page that explains images dropped on it."""
