"""Vision transformers of the SimpleViT kind, with patch or convolutional stem (Beyer et al., 2022).

The convolutional stem: Xiao et al., 2021. B-cos: TPAMI 2024.
"""
