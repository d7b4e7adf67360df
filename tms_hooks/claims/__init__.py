"""Statements of the source documents, each measured over many models and decided by its numbers: `tms reproduce`."""

from tms_hooks.claims.registry import Claim, claim, claims, find
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above, below, decide

__all__ = ["UNKNOWN", "Claim", "Verdict", "above", "below", "claim", "claims", "decide", "find"]
