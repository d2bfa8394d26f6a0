"""Rows of one or several files, and who is ahead in each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from nfkern.bench.core.cases import CASES
from nfkern.bench.core.records import Record, by_row
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.labels import is_ours, standing
from nfkern.host.packages import install_command

Word = Literal["ahead", "even", "behind", "alone"]

EVEN = 0.05
"""Share of the smaller median up to which two are called even."""

UNTUNED = {"eager", "eager_plu_once"}
"""Peers that nothing was done for: a row that has no others says little."""

_PRECISIONS = ("int8", "bf16", "tf32", "fp32", "fp64")


@dataclass(frozen=True)
class Timed:
    """The variants of one row, which took turns.

    Attributes:
        anchor: the row's name on the page, unique there.
        file: the name of the file.
        several: whether the page has more files than this one.
        records: one of each variant.
    """

    anchor: str
    file: str
    several: bool
    records: Sequence[Record]

    @property
    def first(self) -> Record:
        """The first record: work, case, batch, threads and environment are those of all."""
        return self.records[0]

    @property
    def title(self) -> str:
        """The row in words, which tell it from all others of the page."""
        threads = "1 thread" if self.first.threads == 1 else f"{self.first.threads} threads"
        file = f" ({self.file})" if self.several else ""
        return f"{self.first.work}, {self.first.case}, batch {self.first.batch}, {threads}{file}"

    @cached_property
    def peers(self) -> list[Record]:
        """All that do the same job, are not nfkern's own, and have a number."""
        found = (each for each in self.records if not is_ours(each.variant) and standing(each.variant) == "peer")
        return [each for each in found if each.quantiles]

    @cached_property
    def peer(self) -> Record | None:
        """The fastest of `peers`."""
        return _fastest(self.peers)

    @cached_property
    def ours(self) -> Record | None:
        """Nfkern's fastest variant, at the peer's precision or a higher one; without a peer at that of fp32.

        One that gives the results to a tolerance is none: peers give them to rounding.
        """
        least = _PRECISIONS.index(self.peer.precision if self.peer else "fp32")
        found = (each for each in self._own if standing(each.variant) != "tolerance")
        return _fastest(each for each in found if _PRECISIONS.index(each.precision) >= least)

    @property
    def ours_coarser(self) -> Record | None:
        """Nfkern's fastest variant of all, if its results are less precise than those of `ours` may be."""
        fastest = _fastest(self._own)
        return None if fastest is self.ours else fastest

    @property
    def best(self) -> Record | None:
        """The faster of `ours` and `peer`."""
        return _fastest(each for each in (self.ours, self.peer) if each)

    @property
    def floor(self) -> Record | None:
        """The highest of the floors in the precision of `ours`."""
        precision = self.ours.precision if self.ours else "fp32"
        floors = [each for each in self.records if standing(each.variant) == "floor" and each.precision == precision]
        return max((each for each in floors if each.quantiles), key=_median, default=None)

    @cached_property
    def word(self) -> Word:
        """How `ours` stands to `peer`: ahead or behind where the medians differ by more than the noise.

        A difference of up to `EVEN` in nfkern's favour is called even, however small the noise; one against it is not.
        """
        if not (self.ours and self.peer and self.ours.quantiles and self.peer.quantiles):
            return "alone"
        if self.ours.quantiles.above(self.peer.quantiles):
            return "behind"
        return "ahead" if self.peer.quantiles.above(self.ours.quantiles, EVEN) else "even"

    @property
    def called_behind(self) -> Record | None:
        """Nfkern as a user calls it, neither frozen nor otherwise prepared, where that alone is slower than `peer`.

        By however little: what is within the noise does not count for nfkern.
        """
        called = _fastest(each for each in self._own if each.variant == "nfkern")
        if self.word in ("behind", "alone") or not (called and self.peer) or called is self.ours:
            return None
        return called if _median(called) > _median(self.peer) else None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as `peer` `ours` is."""
        return _median(self.peer) / _median(self.ours) if self.ours and self.peer else None

    @property
    def other_functions_ahead(self) -> list[Record]:
        """Variants that compute another function, and do so faster than `ours` its own."""
        found = (each for each in self.records if standing(each.variant) in ("same_size", "own_size"))
        return [each for each in found if self.ours and each.quantiles and _median(each) < _median(self.ours)]

    @property
    def refused(self) -> list[Record]:
        """Those that the gate, or an error, left without a number."""
        return [each for each in self.records if each.error]

    @cached_property
    def _own(self) -> list[Record]:
        return [each for each in self.records if is_ours(each.variant)]


def timed_rows(files: Mapping[str, Sequence[Record]]) -> list[Timed]:
    """Every row of every file, by work, case, batch and threads; works in the order of the files.

    Rows of two files are two rows, for their variants did not take turns.
    """
    found = []
    for number, (file, records) in enumerate(files.items()):
        prefix = f"{number}-" if number else ""
        found += [Timed(prefix + name, file, len(files) > 1, each) for name, each in by_row(records).items()]
    works = list(dict.fromkeys(row.first.work for row in found))
    # Cases as they are declared; what is no longer known comes last.
    cases = list(dict.fromkeys([*CASES, *(row.first.case for row in found)]))

    def place(row: Timed) -> tuple[int, int, int, int]:
        return works.index(row.first.work), cases.index(row.first.case), row.first.batch, row.first.threads

    return sorted(found, key=place)


def verdict(rows: Sequence[Timed]) -> str:
    """Return one sentence that counts the rows in which nfkern is ahead, even and behind."""
    words = Counter(row.word for row in rows)
    compared = len(rows) - words["alone"]
    if not compared:
        return "None of these rows has both nfkern and a peer with its results: nobody is ahead or behind."
    called = sum(row.called_behind is not None for row in rows)
    unfrozen = f"; as a user calls it, not frozen, it is slower than that peer in {called} more" if called else ""
    tuned = {each.variant for row in rows for each in row.peers} - UNTUNED
    peer = "the best peer" if tuned else "eager PyTorch, the only peer measured here,"
    return (
        f"nfkern at its fastest is ahead of {peer} in {words['ahead']} of {compared} rows, "
        f"even in {words['even']} and behind in {words['behind']}{unfrozen}."
    )


def beside(rows: Sequence[Timed]) -> Iterator[str]:
    """Yield lines that say which other variants were measured, and which were skipped and why."""
    others = [each for row in rows for each in row.records if not is_ours(each.variant)]
    others = [each for each in others if standing(each.variant) != "floor"]
    measured = dict.fromkeys(each.variant for each in others if each.quantiles)
    yield f"measured beside nfkern: {', '.join(measured) or 'nothing'}"
    skipped = {each.variant: each.skipped for each in others if each.skipped}
    modules = {
        name: [module for module in VARIANTS[name].requires if f"needs the module {module}" in reason.split("; ")]
        for name, reason in skipped.items()
        if name in VARIANTS
    }
    missing = list(dict.fromkeys(module for found in modules.values() for module in found))
    if missing:
        yield f"skipped, for they are not installed: {', '.join(missing)}; `{install_command(*missing)}`"
    for name, reason in skipped.items():
        if not modules.get(name):
            yield f"skipped: {name}: {reason}"


def _median(record: Record) -> float:
    if record.quantiles is None:
        raise ValueError(f"record: {record.key} has no number")
    return record.quantiles.median_s


def _fastest(records: Iterable[Record]) -> Record | None:
    return min((record for record in records if record.quantiles), key=_median, default=None)
