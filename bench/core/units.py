"""Durations and sizes as reports write them."""


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
