"""Files that are replaced in one step."""

import json
import os
import stat

import pytest

from nfkern.host.files import atomic_file, read_json, write_json, write_text


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    for value in ({"a": 1}, {"b": [2]}):
        write_json(path, value)
        assert read_json(path) == json.loads(path.read_text()) == value
        assert os.listdir(path.parent) == ["numbers.json"]


@pytest.mark.parametrize("before", [None, "old"])
def test_an_interrupted_write_changes_nothing(before, tmp_path):
    path = tmp_path / "text"
    if before is not None:
        write_text(path, before)
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == ({} if before is None else {"text": before})


def test_what_is_being_written_has_another_name_and_the_suffix_asked_for(tmp_path):
    path = tmp_path / "film.mp4"
    with atomic_file(path, ".mp4") as one, atomic_file(path) as other:
        assert one.suffix == ".mp4" != other.suffix
        assert len({path, one, other}) == 3
        for temporary in (one, other):
            temporary.touch()
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_the_umask_says_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "text", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "text").stat().st_mode) == 0o640
