"""Descriptions of variants, in the words of every report."""

from nfkern.bench.core.declarations import STANDINGS, Standing, Variant
from nfkern.bench.registry import VARIANTS


def described(variant: Variant) -> str:
    """Its summary, and what its times stand for where that is not the whole job."""
    note = STANDINGS[variant.standing]
    return f"{variant.summary} ({note})" if note else variant.summary


def standing_note(name: str) -> str:
    """Return the note behind a variant's name: none for a peer, nor for a variant that is no longer known."""
    return STANDINGS[VARIANTS[name].standing] if name in VARIANTS else ""


def standing(name: str) -> Standing:
    """Return the standing of a variant by name; one that is no longer known counts as a peer."""
    return VARIANTS[name].standing if name in VARIANTS else "peer"


def is_ours(name: str) -> bool:
    """Whether a variant is nfkern's own, or one of the paper's algorithms, which the package is for: names say so."""
    return name.startswith(("nfkern", "nf_"))
