"""The phase diagram of Elhage et al. 2022 on paper: what to do with one extra feature."""

import numpy as np

Number = float | int | np.ndarray


def phase_losses(density: Number, relative_importance: Number, n: int = 2) -> dict[str, Number]:
    """Expected loss of each arrangement of n features in n - 1 dimensions, the last of which weighs
    `relative_importance`.

    Sparse uniform features of density d, tied unit weights, ReLU; no bias but the best constant d/2 of an ignored
    feature. An ignored feature costs d/3 - d^2/4, and each of an antipodal pair d^2/6 = d^2 E min(u, v)^2. The
    region of a phase diagram is the arrangement that costs least. Near the boundaries a trained model does better,
    with norms and biases in between. Source: Elhage et al. 2022, "Toy Models of Superposition", phase change.

    >>> losses = phase_losses(0.1, 1.0)
    >>> min(losses, key=losses.get)
    'antipodal'

    Args:
        density: feature probability, in (0, 1].
        relative_importance: importance of the extra feature, that of the others being 1.
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
    ignored = d / 3 - d**2 / 4
    losses = {
        "extra ignored": r * ignored,
        "first ignored": 1.0 * ignored,
        "antipodal": (1 + r) * d**2 / 6,
    }
    return losses | ({"others antipodal": d**2 / 3 * r**0} if n == 3 else {})
