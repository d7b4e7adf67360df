"""Tools that look inside any hooked model: a toy or a real transformer, by the same calls."""

from probes import render
from probes.activations import collect_activations, stream_activations
from probes.alignment import Alignment, align
from probes.bottleneck import Bottleneck, bottleneck
from probes.circuits import Circuit, factored_svd, ov_circuit, qk_circuit
from probes.hooked import HookedModel, audit_hooks, check_hooks, require_live
from probes.models import load_transformer
from probes.slices import AttentionSlices, attention_slices, slices_needed

__all__ = [
    "Alignment",
    "AttentionSlices",
    "Bottleneck",
    "Circuit",
    "HookedModel",
    "align",
    "attention_slices",
    "audit_hooks",
    "bottleneck",
    "check_hooks",
    "collect_activations",
    "factored_svd",
    "load_transformer",
    "ov_circuit",
    "qk_circuit",
    "render",
    "require_live",
    "slices_needed",
    "stream_activations",
]
