"""Where words become whole numbers: compiled code compares numbers, and both sides take them from here.

Optimizers and distributions are numbered by `kernels.rules`, in the order of their tables.
"""

from typing import get_args

from tms_hooks.config import Activation, BottleneckPath

ACTIVATIONS = {word: number for number, word in enumerate(get_args(Activation))}
IDENTITY, RELU, GELU, SOFTMAX = (ACTIVATIONS[word] for word in ("identity", "relu", "gelu", "softmax"))
MLP_PLACES = {word: number for number, word in enumerate(get_args(BottleneckPath))}
BEHIND, BEFORE = (MLP_PLACES[word] for word in ("embed->mlp.in", "mlp.out->unembed"))
"""Where the MLP stands to the hidden layer; beside it is a residual stream."""
