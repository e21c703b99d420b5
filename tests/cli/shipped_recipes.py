"""What tests know of the recipes that come with the package."""

LEFT_OPEN = {
    "finetune": ["model.start=x"],
    "plain_photographs": ["model.start=x"],
    "bcosify_photographs": ["model.start=x", "distillation.teacher=x"],
}
"""What those say that leave the network to ``--from``, and the teacher to the user."""
