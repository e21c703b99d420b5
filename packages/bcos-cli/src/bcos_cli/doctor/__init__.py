"""``bcos doctor``: what would go wrong in an expensive run, found before it starts."""
