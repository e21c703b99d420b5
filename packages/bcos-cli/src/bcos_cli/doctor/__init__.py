"""``bcos doctor``: checks that find what would go wrong in an expensive run before it starts."""
