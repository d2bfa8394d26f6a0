"""Small files in the formats of published demonstrations."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import zarr

LENGTHS = (5, 3, 7, 2)
ENDS = np.cumsum(LENGTHS)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def with_last_row(rows: np.ndarray) -> np.ndarray:
    """The rows of an episode that are imported from a source without a last observation: the last one comes twice."""
    return np.concatenate([rows, rows[-1:]])


def write_zarr(folder: Path, *, state: int = 5) -> tuple[np.ndarray, np.ndarray]:
    # The published files are of zarr's second format.
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    states, actions = random(ENDS[-1], state), random(ENDS[-1], 2)
    for name, array in {"data/state": states, "data/action": actions, "meta/episode_ends": ENDS}.items():
        root.create_array(name, data=array)
    return states, actions


def zipped(folder: Path, *, below: str) -> Path:
    """The folder in a zip file, as Diffusion Policy publishes it: below another folder."""
    path = folder.with_suffix(".archive")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{below}/{folder.name}/{file.relative_to(folder)}")
    return path


def write_robomimic(path: Path, *, episodes: int = 12, following: bool = True) -> dict[str, dict[str, np.ndarray]]:
    """Write robomimic's layout: a group for each demonstration, images beside vectors, lists of demonstrations."""
    written = {}
    with h5py.File(path, "w") as file:
        for number in range(episodes):
            length = LENGTHS[number % len(LENGTHS)]
            whole = {"object": random(length + 1, 10) + number, "robot0_eef_pos": random(length + 1, 3) - number}
            demo = {f"obs/{key}": each[:-1] for key, each in whole.items()}
            demo |= {f"next_obs/{key}": each[1:] for key, each in whole.items()} if following else {}
            demo["obs/agentview_image"] = np.zeros((length, 4, 4, 3), np.uint8)
            demo |= {
                "actions": random(length, 7).clip(-1, 1),
                "states": random(length, 32),
                "rewards": np.zeros(length),
            }
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
            demo["rewards"][-1] = 1.0
            for key, each in demo.items():
                file[f"data/demo_{number}/{key}"] = each
            file[f"data/demo_{number}"].attrs["num_samples"] = length
            written[f"demo_{number}"] = demo | {f"whole/{key}": each for key, each in whole.items()}
        names = np.array(list(written), dtype="S8")
        file["mask/train"], file["mask/valid"], file["mask/few"] = names[:-3], names[-3:], names[:2]
    return written


def d4rl_arrays(*, following: bool) -> dict[str, np.ndarray]:
    """D4RL's columns: the first episode ends by the environment, the second by a time limit; the last has no flag."""
    rows = ENDS[-1]
    states = random(rows + len(LENGTHS), 3)
    # An episode of L steps has L + 1 states: those of all begin where the one before has ended.
    starts = np.concatenate(
        [np.arange(end - length, end) + k for k, (end, length) in enumerate(zip(ENDS, LENGTHS, strict=True))]
    )
    arrays = {
        "observations": states[starts],
        "actions": random(rows, 2).clip(-1, 1),
        "rewards": np.arange(rows) * 0.5,
        "terminals": np.arange(rows) == ENDS[0] - 1,
        "timeouts": np.isin(np.arange(rows), ENDS[1:3] - 1),
    }
    return arrays | ({"next_observations": states[starts + 1]} if following else {})


def write_d4rl(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for key, each in (arrays | {"infos/qpos": random(ENDS[-1], 9), "metadata/algorithm": b"SAC"}).items():
            file[key] = each


def lerobot_columns(lengths: Sequence[int]) -> dict[str, np.ndarray]:
    rows = sum(lengths)
    return {
        "observation.state": random(rows, 6),
        "action": random(rows, 4),
        "timestamp": np.arange(rows, dtype=np.float32),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(rows),
        "task_index": np.zeros(rows, np.int64),
    }


def write_lerobot(folder: Path, columns: dict[str, np.ndarray], *, version: str, splits: dict[str, str]) -> None:
    """Write LeRobot's layouts: v2.1 has a file for each episode, v3 one for many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(rows: np.ndarray) -> "pa.Table":
        arrays = {key: pa.array([row.tolist() for row in each[rows]]) for key, each in columns.items()}
        arrays["observation.image"] = pa.array([{"bytes": b"png", "path": None}] * len(rows))
        return pa.table(arrays)

    numbers = columns["episode_index"]
    episodes = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    if version == "v2.1":
        files = {f"data/chunk-000/episode_{k:06d}.parquet": rows for k, rows in enumerate(episodes)}
    else:
        half = len(episodes) // 2
        files = {"data/chunk-000/file-000.parquet": np.concatenate(episodes[:half])}
        # Rows in any order: it is the index that counts.
        files["data/chunk-000/file-001.parquet"] = np.concatenate(episodes[half:])[::-1]
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(rows), folder / name)
    info = {
        "codebase_version": version,
        "total_frames": len(numbers),
        "total_episodes": len(episodes),
        "splits": splits,
    }
    (folder / "meta").mkdir()
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def write_minari_arrow(folder: Path) -> list[dict[str, np.ndarray]]:
    """Write Minari's Arrow storage: a folder for each episode, whose last row is an observation and padding."""
    import pyarrow as pa

    def lists(array: np.ndarray) -> "pa.Array":
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])

    written = []
    for number, length in enumerate(LENGTHS):
        state, goal, actions = random(length + 1, 4) + number, random(length + 1, 2), random(length, 3).clip(-1, 1)
        rewards, ended = np.arange(length) - 1.0, np.arange(length) == length - 1
        observations = pa.StructArray.from_arrays([lists(goal), lists(state)], ["desired_goal", "observation"])
        columns = {
            "observations": observations,
            "actions": lists(np.pad(actions, ((0, 1), (0, 0)))),
            "rewards": pa.array(np.pad(rewards, (0, 1))),
            "terminations": pa.array(np.pad(ended & (number == 0), (0, 1))),
            "truncations": pa.array(np.pad(ended & (number > 0), (0, 1))),
            "infos": pa.array(["{}"] * (length + 1)),
        }
        file = folder / "data" / str(number) / "part-0.arrow"
        file.parent.mkdir(parents=True)
        batch = pa.RecordBatch.from_pydict(columns)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        written.append({"observations": state, "goal": goal, "actions": actions, "rewards": rewards})
    (folder / "data" / "metadata.json").write_text(json.dumps({"data_format": "arrow", "total_episodes": len(LENGTHS)}))
    return written
