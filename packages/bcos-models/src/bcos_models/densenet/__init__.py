"""DenseNets for ImageNet and for small images (Huang et al., 2017)."""
