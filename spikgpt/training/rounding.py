"""Round the numbers of a reference before they are stored, so that its compressed files are about half as large.

The types of the stored numbers do not change, so every version reads them. Zeros in the last bits compress well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spikgpt.engines.model import NormedLinear, SpikingClassifier, inference_affine
from spikgpt.types import Floats

# Bits after the leading bit of a weight, as in bfloat16.
WEIGHT_BITS = 7


def round_bits(values: npt.NDArray[Any], bits: int = WEIGHT_BITS) -> npt.NDArray[Any]:
    """Round floats to ``bits`` bits after the leading bit, and return values of the same type."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, bits + 1)), exponent - bits - 1), dtype=values.dtype)


def round_steps(values: Floats, step: float) -> npt.NDArray[np.float64]:
    """Return values rounded to the nearest multiples of ``step``."""
    return np.asarray(np.round(np.asarray(values, dtype=np.float64) / step) * step)


def round_weights(classifier: SpikingClassifier) -> None:
    """Fold each BatchNorm into the weights before it, and round the weights of all linear layers.

    An exported graph, in which every BatchNorm is folded, then has the same rounded weights.
    """
    with torch.no_grad():
        for layer in classifier.modules():
            if isinstance(layer, NormedLinear) and isinstance(norm := layer.norm, nn.BatchNorm1d):
                gain, shift = inference_affine(norm)
                layer.linear.weight.mul_(gain[:, None])
                norm.bias.copy_(shift)
                norm.weight.fill_(1)
                norm.get_buffer("running_mean").zero_()
                norm.get_buffer("running_var").fill_(1 - norm.eps)
        for layer in classifier.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.from_numpy(round_bits(layer.weight.numpy())))
