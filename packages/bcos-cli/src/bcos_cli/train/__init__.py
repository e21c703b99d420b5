"""Training: one loop on Accelerate (:mod:`bcos_cli.train.trainer`), and a file for each of its parts."""
