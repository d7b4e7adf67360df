"""Statements of the source documents, each measured over many models and decided by its numbers: `tms reproduce`."""

from tms_hooks.claims.registry import Claim, claim, claims, find
from tms_hooks.claims.verdict import UNKNOWN, Part, Verdict, share, statistic, unmeasurable

__all__ = [
    "UNKNOWN",
    "Claim",
    "Part",
    "Verdict",
    "claim",
    "claims",
    "find",
    "share",
    "statistic",
    "unmeasurable",
]
