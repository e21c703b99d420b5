"""``python -m bcos_cli``, which ``accelerate launch -m`` and ``torchrun -m`` start."""

from bcos_cli.main import main

main()
