"""Names and summaries of the agents, read from their files: importing the agents would load torch, which is slow."""

import re
from pathlib import Path

ROOMS = ("imitation", "offline", "goals", "online")
_REGISTERED = re.compile(r'^@register\(\s*"(\w+)",\s*summary="([^"]+)"', re.MULTILINE)


def summaries() -> dict[str, str]:
    """Return every agent's summary by its name: room by room, the paper's own agents first."""
    here = Path(__file__).parent
    files = [path for room in ROOMS for path in sorted((here / room).glob("*.py"), key=_papers_own_first)]
    return {name: summary for path in files for name, summary in _REGISTERED.findall(path.read_text("utf-8"))}


def _papers_own_first(path: Path) -> tuple[bool, str]:
    return not path.name.startswith("nf_"), path.name
