"""ResNets, ResNeXts and Wide ResNets, for ImageNet and for small images (He et al., 2016; B-cos: TPAMI 2024)."""
