"""Names of the files of a trained network. Imports nothing."""

CONFIG_NAME = "config.json"
"""What ``save_pretrained`` writes beside the weights."""
WEIGHTS_NAME = "model.safetensors"
