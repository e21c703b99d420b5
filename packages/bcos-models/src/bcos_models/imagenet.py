"""The classes of ImageNet."""

CLASSES = 1000
"""How many there are."""


def wordnet_numbers() -> list[str]:
    """Return the names of the 1,000 classes in ImageNet's own folders, such as ``n01440764``."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_label_name(k) for k in range(CLASSES)]


def class_names() -> list[str]:
    """Return short, distinct names of the 1,000 classes."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(k).split(",")[0] for k in range(CLASSES)]
    return [
        name if names.count(name) == 1 else f"{name} ({info.index_to_label_name(k)})" for k, name in enumerate(names)
    ]
