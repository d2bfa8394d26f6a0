"""The file that keeps an evaluation's finished blocks, so that an interrupted one goes on where it was."""

import base64
import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from nfkern.algorithms.evaluation.result import Block, EvaluationSettings, Trajectory
from nfkern.algorithms.evaluation.rollout import Episode
from nfkern.errors import UserError


@dataclass(frozen=True)
class BlockResult:
    """The result of a block: its episodes, and their trajectories where these are recorded."""

    episodes: list[Episode]
    trajectories: list[Trajectory] = field(default_factory=list)


class ProgressFile:
    """JSON lines: the settings, then a line per finished block, on the disk before the next block is waited for.

    Attributes:
        finished: the blocks that the file held when it was opened.
    """

    def __init__(self, path: Path, settings: EvaluationSettings) -> None:
        """Open the file, or begin it.

        Args:
            path: the file; a last line that was cut off by a kill is dropped.
            settings: of the evaluation to go on with.

        Raises:
            UserError: the file belongs to an evaluation with other settings, or cannot be read.
        """
        self.finished: dict[Block, BlockResult] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes() if path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]
        header, *lines = whole.splitlines() or [b""]
        if header:
            self._check(path, header, settings)
        wanted = set(settings.blocks())
        try:
            read = [_decode(line) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): delete it to evaluate anew") from error
        self.finished.update({block: result for block, result in read if block in wanted})
        self._file = path.open("r+b" if path.exists() else "wb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not header:
            self._write(settings.to_dict())

    def append(self, block: Block, result: BlockResult) -> None:
        """Add a finished block."""
        self._write(
            {
                "block": dataclasses.asdict(block),
                "episodes": [dataclasses.asdict(episode) for episode in result.episodes],
                "trajectories": [
                    {"positions": _encode_array(path.positions), "goal": _encode_array(path.goal)}
                    for path in result.trajectories
                ],
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    @staticmethod
    def _check(path: Path, header: bytes, settings: EvaluationSettings) -> None:
        try:
            theirs = EvaluationSettings.from_dict(json.loads(header)).to_dict()
        except ValueError as error:
            raise UserError(f"{path} is not an evaluation's progress: {error}") from error
        ours = settings.to_dict()
        differences = [f"{key} {theirs[key]!r}, now {ours[key]!r}" for key in ours if theirs[key] != ours[key]]
        if differences:
            raise UserError(
                f"{path} belongs to another evaluation ({'; '.join(differences)}): delete it, or ask for the same"
            )


def _decode(line: bytes) -> tuple[Block, BlockResult]:
    values = json.loads(line)
    episodes = [Episode(**row) for row in values["episodes"]]
    trajectories = [
        Trajectory(_decode_array(path["positions"]).reshape(-1, 2), _decode_array(path["goal"]))
        for path in values["trajectories"]
    ]
    return Block(**values["block"]), BlockResult(episodes, trajectories)


def _encode_array(array: np.ndarray) -> str:
    """Little-endian float32 as base64: exact, and a third of the size of decimal numbers."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _decode_array(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
