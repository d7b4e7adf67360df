"""Tools that look inside any hooked model: a toy or a real transformer, by the same calls."""

from probes import render
from probes.activation_patching import patch_sweep, path_patch
from probes.activations import collect_activations, stream_activations
from probes.alignment import Alignment, align, nearest_tokens
from probes.attribution import attribution_sweep
from probes.bottleneck import Bottleneck, bottleneck
from probes.calls import explain_all
from probes.circuits import Circuit, factored_svd, ov_circuit, qk_circuit
from probes.hooked import HookedModel
from probes.linear import linear_probe, probe_activations
from probes.liveness import audit_hooks, require_live
from probes.modules import hook_modules
from probes.sites import Site
from probes.slices import AttentionSlices, ablate_slices, attention_slices, slices_needed
from probes.tangent import TangentSpace, tangent_space
from probes.transformers import load_transformer
from probes.weight_patching import init_patching, patch_weights, patched_copy

__all__ = [
    "Alignment", "AttentionSlices", "Bottleneck", "Circuit", "HookedModel", "Site", "TangentSpace", "ablate_slices",
    "align", "attention_slices", "attribution_sweep", "audit_hooks", "bottleneck", "collect_activations",
    "factored_svd", "hook_modules", "init_patching", "linear_probe", "load_transformer", "nearest_tokens",
    "ov_circuit", "patch_sweep", "patch_weights", "patched_copy", "path_patch", "probe_activations", "qk_circuit",
    "render", "require_live", "slices_needed", "stream_activations", "tangent_space",
]  # fmt: skip

explain_all(__name__)
