"""What ReLU units must be spent on to compute, where features are not only to be kept."""

from tms_hooks.errors import check_at_least_one


def absolute_value_loss(n_features: int, d_hidden: int, p: float) -> float:
    """Loss of a toy that computes |x_i| of as many features as it has pairs of ReLU units for, and no others.

    Two units per feature are exact: |x| = relu(x) + relu(-x), so from d_hidden = 2 n on the loss is 0. With fewer it is
    not, whatever the weights: |x_i| has a kink at x_i = 0, which takes a unit that has it there, and what n such units
    leave over is a linear map of rank n, which takes n more. A feature without units of its own costs what is left when
    its mean is known, p/3 - p^2/4 for values that are uniform on [-1, 1]. Trained toys may do better by sharing units
    among features that are seldom active together (computation in superposition).

    >>> absolute_value_loss(3, 6, 0.2), round(absolute_value_loss(3, 4, 0.2), 4)
    (0.0, 0.0567)

    Args:
        n_features: of the toy: untied, with a ReLU on its hidden layer and features of probability `p`.
        d_hidden: its hidden units.
        p: feature probability.

    Raises:
        ValueError: no feature, no unit, or p outside (0, 1].
    """
    check_at_least_one(n_features=n_features, d_hidden=d_hidden)
    if not 0 < p <= 1:
        raise ValueError(f"p={p}: must be in (0, 1]")
    return max(n_features - d_hidden // 2, 0) * (p / 3 - p**2 / 4)
