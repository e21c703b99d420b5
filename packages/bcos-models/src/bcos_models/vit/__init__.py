"""Vision transformers of the SimpleViT kind (Beyer et al., 2022), some with convolutional stem (Xiao et al., 2021)."""
