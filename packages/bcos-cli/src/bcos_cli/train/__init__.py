"""Training: one loop on Accelerate, checkpoints, the folder of a run."""
