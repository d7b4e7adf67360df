"""What the weights alone say about superposition: dimensionality, directions, factors, named polytopes.

Everything takes feature directions as rows, `W_E`: "*model feature hidden", and imports nothing else of this project.

>>> hexagon = ideal_polytopes(6)["hexagon"].float()
>>> name_polytope(hexagon), dimensionality(hexagon)[0]
('hexagon', tensor(0.3333))
"""

from tms_hooks.geometry.directions import (
    count_directions,
    directions,
    represented,
    tegum_factors,
)
from tms_hooks.geometry.frames import canonical, rotate_onto
from tms_hooks.geometry.measures import (
    dimensionality,
    dimensions_per_feature,
    feature_norms,
    gram,
    interference,
)
from tms_hooks.geometry.polytopes import Polytope, ideal_polytopes, name_polytope, polytopes, shape_history

__all__ = [
    "Polytope",
    "canonical",
    "count_directions",
    "dimensionality",
    "dimensions_per_feature",
    "directions",
    "feature_norms",
    "gram",
    "ideal_polytopes",
    "interference",
    "name_polytope",
    "polytopes",
    "represented",
    "rotate_onto",
    "shape_history",
    "tegum_factors",
]
