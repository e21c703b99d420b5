"""B-cosification: pretrained networks of any family become B-cos networks (Arya et al., NeurIPS 2024).

=================  ==============================================================
:mod:`.options`    what is converted, and what rules return
:mod:`.observe`    one look at the network at work: gates, classifier, first layers
:mod:`.layers`     B-cos layers that take over weights of special convolutions
:mod:`.attention`  PyTorch's multi-head attention, likewise
:mod:`.rules`      which layer becomes what
:mod:`.described`  what a network says of its images
:mod:`.walk`       the rules, applied to all modules
:mod:`.heads`      the classifier before the pooling; the encoding of the input
:mod:`.bcosify`    all of it together
:mod:`.anneal`     from B = 1 to B = 2, and biases to 0, while training
:mod:`.named`      ``timm/NAME``, ``torchvision/NAME``, ``bcosified/NAME``
=================  ==============================================================
"""
