"""The ``bcos`` command: pack shards, train, evaluate and explain B-cos networks."""

__version__ = "0.1.0"
