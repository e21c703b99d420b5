"""All-convolutional B-cos networks, with whatever else a package can add to the bcos packages."""
