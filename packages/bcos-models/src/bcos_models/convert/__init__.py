"""B-cosification: pretrained networks of any family become B-cos networks (Arya et al., NeurIPS 2024).

Options and report of a conversion are in :mod:`bcos_models.conversion`.

====================  ==============================================================
:mod:`.observation`   what a network does with one batch: gates, classifier, first layers
:mod:`.layers`        B-cos layers that take over weights of special convolutions
:mod:`.attention`     PyTorch's multi-head attention, likewise
:mod:`.rules`         which layer becomes what
:mod:`.walk`          the rules, applied to all modules
:mod:`.network`       the converted network: encoding, classifier before the pooling
:mod:`.fitting`       kernels that make up for biases and means
:mod:`.bcosify`       all of it together
:mod:`.annealing`     from B = 1 to B = 2, and biases to 0, while training
:mod:`.origins`       ``timm/NAME``, ``torchvision/NAME``, ``bcosified/NAME``
====================  ==============================================================
"""
