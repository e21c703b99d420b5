"""What tests know of the recipes that come with the package."""

ANY_NETWORK = {"finetune", "plain_photographs", "bcosify_photographs"}
"""Those that leave the network to ``--from``."""
