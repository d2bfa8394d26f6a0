"""The words of every report: durations, and what the variants are."""

from nfkern.bench.declarations import STANDINGS, Standing, Variant
from nfkern.bench.registry import VARIANTS


def duration(seconds: float) -> str:
    """Three digits with a unit: `45.1 us`, `1.20 ms`, `2.50 s`."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            value = seconds * scale
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    raise AssertionError


def size(bytes_: float) -> str:
    """Three digits with a unit, in powers of a thousand: `512 B`, `1.20 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= scale:
            value = bytes_ / scale
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    return f"{bytes_:.0f} B"


def described(variant: Variant) -> str:
    """Its summary, and what its times stand for where that is not the whole job."""
    note = STANDINGS[variant.standing]
    return f"{variant.summary} ({note})" if note else variant.summary


def standing_note(name: str) -> str:
    """What to say behind a variant's name: nothing of a peer, nor of a variant that is no longer known."""
    return STANDINGS[VARIANTS[name].standing] if name in VARIANTS else ""


def standing(name: str) -> Standing:
    """Of a variant by name; one that is no longer known counts as a peer."""
    return VARIANTS[name].standing if name in VARIANTS else "peer"


def is_ours(name: str) -> bool:
    """Whether a variant is nfkern's own, or one of the paper's algorithms, which the package is for: names say so."""
    return name.startswith(("nfkern", "nf_"))
