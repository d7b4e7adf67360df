"""Tools that look inside any hooked model: a toy or a real transformer, by the same calls."""

from probes.activations import collect_activations, stream_activations
from probes.hooked import HookedModel, audit_hooks, check_hooks, require_live
from probes.models import load_transformer

__all__ = [
    "HookedModel",
    "audit_hooks",
    "check_hooks",
    "collect_activations",
    "load_transformer",
    "require_live",
    "stream_activations",
]
