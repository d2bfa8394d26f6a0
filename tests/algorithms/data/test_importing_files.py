"""Sources of several files and groups: what fits together, what is missing, and what is damaged."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from support.imported_dataset import imported, same_steps, transitions
from support.published_demonstrations import (
    ENDS,
    LENGTHS,
    d4rl_arrays,
    lerobot_columns,
    random,
    write_d4rl,
    write_lerobot,
    write_minari_arrow,
    write_robomimic,
    write_zarr,
)
from zarr.codecs import BloscCodec, Crc32cCodec

from nfkern.errors import UserError


def test_a_group_with_actions_beside_the_arrays_is_no_episode(tmp_path: Path) -> None:
    write_d4rl(tmp_path / "mine.hdf5", d4rl_arrays(following=True) | {"infos/actions": random(3, 2)})
    imported(tmp_path / "mine.hdf5", tmp_path)
    assert len(transitions(tmp_path)["actions"]) == sum(LENGTHS)


def changed(folder: Path, *, episode: int, **columns: object) -> None:
    """Give other columns to the file of an episode, which then come first."""
    file = folder / "data" / "chunk-000" / f"episode_{episode:06d}.parquet"
    table = pq.read_table(file)
    names = {name.replace(".", "_"): name for name in table.schema.names}
    rest = {name: table.column(name) for short, name in names.items() if short not in columns}
    pq.write_table(pa.table({names.get(key, key): each for key, each in columns.items()} | rest), file)


def test_lerobot_files_may_differ_in_types_and_in_the_order_of_columns(tmp_path: Path) -> None:
    columns = lerobot_columns(LENGTHS)
    write_lerobot(tmp_path / "lerobot", columns, version="v2.1", splits={"train": "0:4"})
    values = columns["action"][LENGTHS[0] : LENGTHS[0] + LENGTHS[1]].astype(np.float64)
    changed(tmp_path / "lerobot", episode=1, action=pa.FixedSizeListArray.from_arrays(values.reshape(-1), 4))
    imported(tmp_path / "lerobot", tmp_path)
    same_steps(transitions(tmp_path), {"observations": columns["observation.state"], "actions": columns["action"]})


def test_times_of_a_video_are_no_observation(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "lerobot", lerobot_columns(LENGTHS), version="v2.1", splits={})
    for episode, length in enumerate(LENGTHS):
        frames = pa.array([{"path": "top.mp4", "timestamp": 0.1}] * length)
        changed(tmp_path / "lerobot", episode=episode, observation_image=frames)
    imported(tmp_path / "lerobot", tmp_path)
    assert transitions(tmp_path)["observations"].shape[1] == 6


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({"train": "0:80%", "test": "80%:"}, "expected splits such as 0:50, got '0:80%' for train"),
        ({"train": "0:3", "val": "2:4"}, "episode 2 is in both"),
    ],
)
def test_splits_that_cannot_be_followed_are_refused(splits: dict[str, str], says: str, tmp_path: Path) -> None:
    write_lerobot(tmp_path / "lerobot", lerobot_columns(LENGTHS), version="v2.1", splits=splits)
    with pytest.raises(UserError, match=f"meta/info.json: .*{says}"):
        imported(tmp_path / "lerobot", tmp_path)


def test_the_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "lerobot"
    write_lerobot(folder, lerobot_columns(LENGTHS), version="v2.1", splits={})
    changed(folder, episode=1, episode_index=pa.nulls(LENGTHS[1], pa.int64()))
    with pytest.raises(UserError, match="episode_index: expected whole numbers, got gaps"):
        imported(folder, tmp_path)
    (folder / "data" / "chunk-000" / "episode_000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"episode_000001.parquet is damaged"):
        imported(folder, tmp_path)
    (folder / "meta" / "info.json").write_text("[]")
    (folder / "data" / "chunk-000" / "episode_000001.parquet").unlink()
    with pytest.raises(UserError, match=r"meta/info.json: expected an object, got list"):
        imported(folder, tmp_path)


def test_arrow_without_padding_loses_no_step(tmp_path: Path) -> None:
    written = write_minari_arrow(tmp_path)
    for file in sorted((tmp_path / "data").rglob("*.arrow")):
        table = pa.ipc.open_file(str(file)).read_all().slice(0, LENGTHS[int(file.parent.name)])
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    imported(tmp_path / "data", tmp_path, rewards=False)
    same_steps(transitions(tmp_path), {"actions": np.concatenate([episode["actions"] for episode in written])})


def test_hidden_files_beside_tables_are_not_read(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "data", lerobot_columns(LENGTHS), version="v2.1", splits={})
    table = next((tmp_path / "data").rglob("*.parquet"))
    (table.parent / f"._{table.name}").write_bytes(b"Mac OS X")
    imported(tmp_path / "data", tmp_path)
    write_minari_arrow(tmp_path / "arrow")
    for table in list((tmp_path / "arrow").rglob("*.arrow")):
        (table.parent / f"._{table.name}").write_bytes(b"Mac OS X")
    imported(tmp_path / "arrow", tmp_path, rewards=False)


def test_without_rewards_an_episode_may_lack_what_only_they_need(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "demos")
    with h5py.File(tmp_path / "demos", "a") as file:
        del file["data/demo_3/dones"]
    with pytest.raises(UserError, match="demo_3: expected the arrays of the first episode"):
        imported(tmp_path / "demos", tmp_path)
    imported(tmp_path / "demos", tmp_path, rewards=False)


@pytest.mark.parametrize(
    "options",
    [{"chunks": (4, 5), "shards": (8, 5)}, {"compressors": [BloscCodec(), Crc32cCodec()]}],
    ids=["shards", "crc"],
)
def test_zarr_files_that_are_more_than_blosc_wrote_are_whole(options: dict[str, Any], tmp_path: Path) -> None:
    states, actions = random(ENDS[-1], 5), random(ENDS[-1], 2)
    root = zarr.open_group(tmp_path / "mine.zarr", mode="w", zarr_format=3)
    root.create_array("data/state", data=states, **{"compressors": [BloscCodec()]} | options)
    root.create_array("data/action", data=actions)
    root.create_array("meta/episode_ends", data=ENDS)
    imported(tmp_path / "mine.zarr", tmp_path)
    same_steps(transitions(tmp_path), {"observations": states, "actions": actions})


def test_chunks_that_are_missing_or_cut_off_are_told(tmp_path: Path) -> None:
    states, _ = write_zarr(tmp_path / "mine.zarr")
    root = zarr.open_group(tmp_path / "mine.zarr", mode="a", zarr_format=2)
    for name in ("data/state", "data/img"):
        root.create_array(name, data=states, chunks=(4, 5), overwrite=True)
    chunk = tmp_path / "mine.zarr" / "data" / "state" / "2.0"
    whole = chunk.read_bytes()
    # What is not read stops nothing.
    (tmp_path / "mine.zarr" / "data" / "img" / "2.0").write_bytes(whole[:20])
    chunk.write_bytes(whole[:20])
    with pytest.raises(UserError, match=r"state/2.0 is cut off, or damaged"):
        imported(tmp_path / "mine.zarr", tmp_path)
    chunk.unlink()
    assert (
        "state: 1 of 5 chunks have no file, and are 0.0 throughout"
        in (imported(tmp_path / "mine.zarr", tmp_path).parameters["notes"])
    )
