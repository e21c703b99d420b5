"""What explanation mode does to plain PyTorch operations.

B-cos layers freeze their dynamic factors themselves. Every other function of PyTorch that a network calls on
what depends on the input is looked up here, so that networks of any origin become linear: gates and statistics
are frozen, activations become ``x`` times a frozen gate, products give each factor its share, norms freeze
their variance (never their mean), and every constant that an operation adds is routed through
:mod:`bcos_core.additive_terms`. Values stay the same; only gradients change.

=====================  =====================================================================================
:mod:`.linear`         functions that are called as they are
:mod:`.activations`    gates, statistics, activations
:mod:`.additions`      sums, concatenations, selections: constants beside the input are measured
:mod:`.products`       products, convolutions, quotients
:mod:`.normalisation`  batch, layer, group, instance and other norms
:mod:`.attention`      scaled dot products, multi-head attention
:mod:`.recurrent`      LSTM, GRU, RNN
:mod:`.fallback`       everything else: called if it proves linear, else refused by name
=====================  =====================================================================================
"""

from bcos_core.rules import activations, additions, attention, linear, normalisation, products, recurrent  # noqa: F401 - reason: each registers its rules
from bcos_core.rules.table import AS_IT_IS, register_rules

__all__ = ["AS_IT_IS", "register_rules"]
