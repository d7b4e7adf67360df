"""Tools that look inside any hooked model: a toy or a real transformer, by the same calls."""

from probes.activation_patching import attribution_sweep, patch_sweep, path_patch
from probes.activations import collect_activations, stream_activations
from probes.hooked import HookedModel, audit_hooks, check_hooks, require_live
from probes.linear import linear_probe
from probes.sites import Site
from probes.tangent import TangentSpace, tangent_space
from probes.weight_patching import init_patching, patch_weights, patched_copy

__all__ = [
    "HookedModel",
    "Site",
    "TangentSpace",
    "attribution_sweep",
    "audit_hooks",
    "check_hooks",
    "collect_activations",
    "init_patching",
    "linear_probe",
    "patch_sweep",
    "patch_weights",
    "patched_copy",
    "path_patch",
    "require_live",
    "stream_activations",
    "tangent_space",
]
