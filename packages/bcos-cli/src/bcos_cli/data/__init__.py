"""Data: image sources, WebDataset shards with an index, deterministic streams."""
