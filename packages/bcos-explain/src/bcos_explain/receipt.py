"""Receipts of explanations, which :mod:`bcos_core.receipt` makes, under the name that they had first."""

from bcos_core.logits import LOGIT_BIAS
from bcos_core.receipt import Receipt, by_origin, exponent, number, receipts

__all__ = ["LOGIT_BIAS", "Receipt", "by_origin", "exponent", "number", "receipts"]
