"""npz files: deterministic, aligned, readable by numpy, mappable."""

import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nfkern.algorithms.data.archive import ALIGNMENT, Column, column_specs, read_npz, write_npz

ARRAYS = st.dictionaries(
    st.sampled_from(["observations", "actions", "terminals", "q", "button_states"]),
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=9))
    ),
    min_size=1,
)


def _columns(arrays):
    # In two pieces, as episodes arrive.
    return [Column(k, a.shape, a.dtype, [a[: len(a) // 2], a[len(a) // 2 :]]) for k, a in arrays.items()]


@given(ARRAYS)
def test_written_arrays_read_back_loaded_mapped_and_by_numpy(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("npz") / "file.npz"
    write_npz(path, _columns(arrays))
    with np.load(path) as by_numpy:
        for key, array in arrays.items():
            for read in (by_numpy[key], read_npz(path)[key], read_npz(path, memory_map=True)[key]):
                assert read.dtype == array.dtype
                np.testing.assert_array_equal(read, array)
    assert column_specs(path) == {key: (array.shape, array.dtype) for key, array in arrays.items()}


def test_mapped_arrays_are_aligned_views_of_the_file(tmp_path):
    arrays = {"odd_name": np.arange(7, dtype=np.float32), "b": np.arange(5.0)}
    write_npz(tmp_path / "file.npz", _columns(arrays))
    for array in read_npz(tmp_path / "file.npz", memory_map=True).values():
        assert isinstance(array.base, np.memmap)
        assert array.ctypes.data % ALIGNMENT == 0
        assert not array.flags.writeable


def test_same_arrays_give_the_same_bytes(tmp_path):
    arrays = {"a": np.arange(5.0)}
    write_npz(tmp_path / "one.npz", _columns(arrays))
    write_npz(tmp_path / "two.npz", _columns(arrays))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_compressed_files_are_loaded_instead_of_mapped(tmp_path):
    np.savez_compressed(tmp_path / "file.npz", a=np.arange(5.0))
    array = read_npz(tmp_path / "file.npz", memory_map=True)["a"]
    np.testing.assert_array_equal(array, np.arange(5.0))
    assert array.flags.writeable


def test_wrong_number_of_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="promised 4 rows, got 3"):
        write_npz(tmp_path / "file.npz", [Column("a", (4,), np.dtype(float), [np.arange(3.0)])])


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "file.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npz(tmp_path / "file.npz")
