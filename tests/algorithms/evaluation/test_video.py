import os
from pathlib import Path

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
from support import evaluation_policies
from support.evaluation_policies import load_straight_to_goal

from nfkern.algorithms.evaluation import video
from nfkern.algorithms.evaluation.evaluate import EnvironmentPool, evaluate, make_settings
from nfkern.algorithms.evaluation.result import EvaluationSettings
from nfkern.errors import UserError

SETTINGS = EvaluationSettings("pointmaze-medium-navigate-v0", (1, 2), episodes_per_task=2, seed=0, block_size=2)


def test_without_a_renderer_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(video, "rendering_backends", lambda: {"egl": "ImportError: no EGL", "osmesa": "none either"})
    with pytest.raises(UserError, match=r"egl: ImportError: no EGL; osmesa: none either.*apt-get install libegl1"):
        video.record_video(load_straight_to_goal, SETTINGS, tmp_path / "film.gif")


def test_backends_come_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "no-such-library")
    reasons = video.rendering_backends()
    assert list(reasons) == ["no-such-library"]
    assert "no-such-library" in str(reasons["no-such-library"])
    assert os.environ["MUJOCO_GL"] == "no-such-library"
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    monkeypatch.setattr(video, "_why_not", lambda name: None)
    assert "disabled" not in video.rendering_backends()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"path": Path("film.avi")}, "path: "),
        ({"size": 100}, "size, every, fps: "),
        ({"episode": 2}, "episode: the evaluation has 0 to 1, got 2"),
        ({"tasks": [3]}, r"tasks: the evaluation has \(1, 2\), got \(3,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(named: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"path": Path("film.gif")} | named
    with pytest.raises(ValueError, match=message):
        video.record_video(load_straight_to_goal, SETTINGS, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_films_are_written_whole_or_not_at_all(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"film.{suffix}"

    def interrupted() -> None:
        with video._writer(path, fps=10) as write:
            write(np.zeros((64, 64, 3), dtype=np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    with video._writer(path, fps=10) as write:
        for brightness in range(0, 250, 25):
            write(np.full((64, 64, 3), brightness, dtype=np.uint8))
    if suffix == "gif":
        frames = imageio.imread(path)
        assert frames.shape == (10, 64, 64, 3)
        np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), np.arange(0, 250, 25), atol=4)
    else:
        # imageio's own reader of mp4 leaves pipes open, which is a warning, and so an error, here.
        assert imageio_ffmpeg.count_frames_and_secs(path) == (10, 1.0)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_the_film_shows_the_evaluated_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if all(video.rendering_backends().values()):
        pytest.skip("nothing can render here")
    support = str(Path(evaluation_policies.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    pool = EnvironmentPool("pointmaze-medium-navigate-v0", max_episode_steps=190)
    settings = make_settings(pool, episodes_per_task=2, tasks=[2])
    result = evaluate(load_straight_to_goal, pool, episodes_per_task=2, tasks=[2], progress=False)
    assert result.settings == settings
    path = tmp_path / "films" / "film.gif"
    video.record_video(load_straight_to_goal, settings, path, size=64, every=1, fps=20)
    frames = imageio.imread(path)
    # The start, one frame a step, then the last one held for half a second (a gif joins frames that do not change).
    steps = result.episodes[0].length
    assert frames.shape[1:] == (64, 64, 3)
    assert steps * 0.9 <= len(frames) <= steps + 12
    assert frames[0].std() > 10
    assert (frames[0].astype(int) - frames[-1]).any()
    assert "MUJOCO_GL" not in os.environ
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_environment_that_cannot_be_drawn_is_refused_and_mujocos_are_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be drawn: it has neither"):
        video.check_drawable(EnvironmentPool("MountainCarContinuous-v0"))
    pool = EnvironmentPool("Reacher-v5")
    video.check_drawable(pool)
    model = pool.take(1)[0].unwrapped.model  # type: ignore[attr-defined]
    # OGBench's camera, which gymnasium's own models lack.
    assert not video._has_camera(model, "front")
    pool.close()
