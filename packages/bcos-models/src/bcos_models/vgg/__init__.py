"""VGG networks, with and without norms (Simonyan and Zisserman, 2015)."""
