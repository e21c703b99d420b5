"""Converting trained networks: what ``bcos convert`` does."""
