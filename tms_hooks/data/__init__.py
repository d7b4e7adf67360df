"""Feature distributions: frozen descriptions whose samples are pure functions of (batch, seed, step).

`base` says what a distribution is; the other modules hold one family each. A distribution of your own is one class with
`_draw`, its moments and, for the compiled engine, `fill`; a line in `DISTRIBUTIONS` lets saved runs, sweeps and the
compiled engine find it.
"""

from tms_hooks.data.base import MAX_DATASET_ROWS, Distribution
from tms_hooks.data.dependent import AnticorrelatedGroups, Copula, CorrelatedGroups
from tms_hooks.data.finite import KHot, OneHot, RandomPoints, Samples
from tms_hooks.data.independent import SparseUniform

DISTRIBUTIONS: dict[str, type[Distribution]] = {
    cls.__name__: cls
    for cls in (SparseUniform, OneHot, KHot, RandomPoints, Samples, CorrelatedGroups, AnticorrelatedGroups, Copula)
}

__all__ = [
    "DISTRIBUTIONS", "MAX_DATASET_ROWS", "AnticorrelatedGroups", "Copula", "CorrelatedGroups", "Distribution", "KHot",
    "OneHot", "RandomPoints", "Samples", "SparseUniform",
]  # fmt: skip
