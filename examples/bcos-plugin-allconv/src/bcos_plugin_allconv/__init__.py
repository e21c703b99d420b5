"""All-convolutional B-cos networks for bcos-models."""
