"""The phase diagram of Elhage et al. 2022 on paper: what to do with one feature more than there are dimensions.

The extra feature can be ignored, it can displace another feature, or it can share a dimension with one as an antipodal
pair. Each arrangement has an expected loss in closed form; where the cheapest one changes, over feature probability and
importance, theory has a phase boundary.
"""

import numpy as np

from tms_hooks.theory.expected import Number, ignored_loss


def phase_losses(density: Number, relative_importance: Number, n: int = 2) -> dict[str, Number]:
    """Expected loss of each arrangement of n features in n - 1 dimensions.

    Sparse uniform features of density d, tied unit weights, ReLU; no bias but the best constant d/2 of an ignored
    feature. An ignored feature costs d/3 - d^2/4, and each of an antipodal pair d^2/6 = d^2 E min(u, v)^2. Near the
    boundaries a trained model does better, with norms and biases in between. Source: Elhage et al. 2022, "Toy Models of
    Superposition", phase change.

    >>> losses = phase_losses(0.1, 1.0)
    >>> min(losses, key=losses.get)
    'antipodal'

    Args:
        density: feature probability, in (0, 1].
        relative_importance: importance of the last, the extra feature; that of the others is 1.
        n: 2 (in one dimension) or 3 (in two).

    Raises:
        ValueError: a density outside (0, 1], a relative importance that is not positive, or another n.
    """
    d, r = density, relative_importance
    if not np.all((np.asarray(d) > 0) & (np.asarray(d) <= 1)):
        raise ValueError(f"density={d}: must be in (0, 1]; sparsity S is 1 - density")
    if not np.all(np.asarray(r) > 0):
        raise ValueError(f"relative_importance={r}: must be positive")
    if n not in (2, 3):
        raise ValueError(f"n={n}: closed forms are known for 2 features in 1 dimension and 3 in 2")
    losses = {
        "extra ignored": r * ignored_loss(d),
        "first ignored": ignored_loss(d),
        "antipodal": (1 + r) * d**2 / 6,
    }
    return losses | ({"others antipodal": d**2 / 3 * r**0} if n == 3 else {})
