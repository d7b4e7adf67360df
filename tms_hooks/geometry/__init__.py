"""What the weights alone say about superposition: how much room each feature has, and which polytope features make.

A toy writes feature i into its hidden layer as the row W_i of `W_E`: a direction, whose length says how well the
feature is represented. With more features than hidden dimensions the directions cannot all be orthogonal, and gradient
descent often arranges them as the vertices of regular polytopes: antipodal pairs, pentagons, tetrahedra, and products
of these. `measures` has numbers for each feature or model and groups of features; `polytopes` names the shapes.

>>> hexagon = ideal_polytopes(6)["hexagon"].float()
>>> name_polytope(hexagon), dimensionality(hexagon)[0]
('hexagon', tensor(0.3333))
"""

from tms_hooks.geometry.measures import (
    ORTHOGONAL,
    check_weights,
    count_directions,
    dimensionality,
    dimensions_per_feature,
    directions,
    feature_norms,
    gram,
    interference,
    represented,
    rotate_onto,
    tegum_factors,
)
from tms_hooks.geometry.polytopes import Polytope, ideal_polytopes, name_polytope, polytopes

__all__ = [
    "ORTHOGONAL", "Polytope", "check_weights", "count_directions", "dimensionality", "dimensions_per_feature",
    "directions", "feature_norms", "gram", "ideal_polytopes", "interference", "name_polytope", "polytopes",
    "represented", "rotate_onto", "tegum_factors",
]  # fmt: skip
