"""Videos of evaluated episodes, rendered without a display in a process of their own."""

import contextlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.algorithms.envs.make import PinnedTask
from nfkern.algorithms.evaluation.blocks import Loader
from nfkern.algorithms.evaluation.result import EvaluationSettings
from nfkern.algorithms.evaluation.rollout import EnvironmentPool
from nfkern.errors import UserError
from nfkern.host.files import atomic_file
from nfkern.host.packages import install_command

PROBE = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
renderer.update_scene(mujoco.MjData(mujoco.MjModel.from_xml_string("<mujoco/>")))
renderer.render()
"""


def rendering_backends() -> dict[str, str | None]:
    """Return the values of MUJOCO_GL that could render here, each tried in a process of its own (about a second).

    Returns:
        For each, why it does not work, or None where it does. Only the user's own where MUJOCO_GL is set.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen not in ("", "0", "off", "false", "disable", "disabled"):
        names = [chosen]
    else:
        names = ["egl", "osmesa"] if sys.platform.startswith("linux") else ["glfw"]
    return {name: _why_not(name) for name in names}


def record_video(
    loader: Loader,
    settings: EvaluationSettings,
    path: Path,
    *,
    tasks: Sequence[int] | None = None,
    episode: int = 0,
    size: int = 256,
    every: int = 4,
    fps: int = 25,
) -> None:
    """Write one episode of each task, one after the other: those of the evaluation with these settings, exactly.

    The whole block of the episode is run again, because the policy's batch and randomness belong to the block.
    Shadows and multisampling are off, which makes software rendering about ten times faster.

    Args:
        loader: loads the policy; picklable, as for several workers.
        settings: of the evaluation, as in its result.
        path: ends in .gif or .mp4; written atomically.
        tasks: task numbers; None for all in the settings.
        episode: the episode's number within its task.
        size: width and height in pixels; a multiple of 16, which video codecs like.
        every: renders every so many-th step.
        fps: frames per second.

    Raises:
        ValueError: an argument that does not fit; the message names it.
        UserError: nothing can render here, or imageio is not installed.
    """
    if size < 16 or size % 16 or every < 1 or fps < 1:
        raise ValueError(f"size, every, fps: expected a multiple of 16, and at least 1, got {size}, {every}, {fps}")
    if not 0 <= episode < settings.episodes_per_task:
        raise ValueError(f"episode: the evaluation has 0 to {settings.episodes_per_task - 1}, got {episode}")
    tasks = settings.tasks if tasks is None else tuple(tasks)
    if not tasks or not set(tasks) <= set(settings.tasks):
        raise ValueError(f"tasks: the evaluation has {settings.tasks}, got {tasks}")
    backend = check_recordable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        # MuJoCo chooses its backend while it is imported, which has to happen after this: hence the new process.
        with _variables(MUJOCO_GL=backend, PYOPENGL_PLATFORM=None):
            future = executor.submit(_record, loader, settings, path, tasks, episode, size, every, fps)
        try:
            future.result()
        except BrokenProcessPool as error:
            raise UserError(f"the process that renders with MUJOCO_GL={backend} died; try another backend") from error


def check_recordable(path: Path) -> str:
    """Check, before anything expensive, that a video can be written.

    Args:
        path: ends in .gif or .mp4.

    Returns:
        The value of MUJOCO_GL to render with.

    Raises:
        ValueError: another ending.
        UserError: nothing can render here, or imageio is not installed.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path: expected a name that ends in .gif or .mp4, got {path}")
    needed = ["imageio", "imageio_ffmpeg"] if path.suffix == ".mp4" else ["imageio"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"videos need {' and '.join(missing)}: {install_command(*missing)}")
    backends = rendering_backends()
    for name, reason in backends.items():
        if reason is None:
            return name
    reasons = "; ".join(f"{name}: {reason}" for name, reason in backends.items())
    raise UserError(
        f"nothing can render here ({reasons}): install EGL (apt-get install libegl1 libgl1-mesa-dri) or OSMesa "
        "(apt-get install libosmesa6)"
    )


def check_drawable(pool: EnvironmentPool) -> None:
    """Check that an environment can be drawn.

    Raises:
        UserError: it has neither a MuJoCo model nor a method `picture`.
    """
    environment = pool.take(1)[0]
    if not environment.has_wrapper_attr("picture") and not hasattr(environment.unwrapped, "model"):
        raise UserError(f"--video: {pool.name} cannot be drawn: it has neither a MuJoCo `model` nor `picture(size)`")


def _why_not(backend: str) -> str | None:
    with _variables(MUJOCO_GL=backend, PYOPENGL_PLATFORM=None):
        probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
    if probe.returncode == 0:
        return None
    lines = [line for line in probe.stderr.splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else f"exit code {probe.returncode}"


@contextlib.contextmanager
def _variables(**values: str | None) -> Iterator[None]:
    """Set environment variables (None: unset) for the processes that are started inside the block."""
    before = {name: os.environ.pop(name, None) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _record(
    loader: Loader,
    settings: EvaluationSettings,
    path: Path,
    tasks: Sequence[int],
    episode: int,
    size: int,
    every: int,
    fps: int,
) -> None:
    """Record a video in the process that has a rendering backend."""
    import torch

    from nfkern.algorithms.evaluation.rollout import run_block

    torch.set_num_threads(1)
    policy = loader()
    pool = settings.pool()
    blocks = {
        block.task_id: block
        for block in settings.blocks()
        if block.first_episode <= episode < block.first_episode + block.episodes
    }
    with _writer(path, fps) as write:
        for task in tasks:
            film = _Film(episode, size, every)
            block = blocks[task]
            run_block(
                policy,
                pool.take(block.episodes),
                task_id=task,
                first_episode=block.first_episode,
                seed=settings.seed,
                observe=film.observe,
            )
            frames = film.finish()
            for frame in [*frames, *[frames[-1]] * (fps // 2)]:
                write(frame)


class _Film:
    """Collects frames of one episode of a block."""

    def __init__(self, episode: int, size: int, every: int) -> None:
        self.episode, self.size, self.every = episode, size, every
        self.steps = 0
        self.frames: list[np.ndarray] = []
        self.renderer: Any = None
        self.environment: PinnedTask | None = None

    def observe(self, episode: int, environment: PinnedTask, _: np.ndarray) -> None:
        if episode != self.episode:
            return
        if self.environment is None:
            self.environment = environment
            # Planar tasks have no model to be rendered: they draw themselves.
            if not environment.has_wrapper_attr("picture"):
                self.renderer = _renderer(environment, self.size)
        if self.steps % self.every == 0:
            self._shoot()
        self.steps += 1

    def finish(self) -> list[np.ndarray]:
        """Return all frames, with the final state's, in which the environment rests."""
        self._shoot()
        if self.renderer is not None:
            self.renderer.close()
        return self.frames

    def _shoot(self) -> None:
        environment = self.environment
        assert environment is not None
        if self.renderer is None:
            self.frames.append(environment.get_wrapper_attr("picture")(self.size))
            return
        unwrapped: Any = environment.unwrapped
        # OGBench's mazes have a camera of their own from above, its manipulation a fixed one in front; others may have
        # none, and are drawn from MuJoCo's default view.
        camera = getattr(unwrapped, "custom_camera", "front" if _has_camera(unwrapped.model, "front") else -1)
        if environment.has_wrapper_attr("video_camera"):
            camera = environment.get_wrapper_attr("video_camera")
        self.renderer.update_scene(unwrapped.data, camera=camera)
        self.frames.append(self.renderer.render().copy())


def _has_camera(model: Any, name: str) -> bool:
    import mujoco

    return int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)) >= 0


def _renderer(environment: PinnedTask, size: int) -> Any:
    import mujoco

    model: Any = environment.unwrapped.model  # type: ignore[attr-defined]
    model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = size
    renderer = mujoco.Renderer(model, size, size)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    return renderer


@contextlib.contextmanager
def _writer(path: Path, fps: int) -> Iterator[Any]:
    """Yield a function that takes frames; the file is put in place when all went well."""
    import imageio.v2

    options: dict[str, Any] = {"fps": fps} if path.suffix == ".mp4" else {"duration": 1000 / fps, "loop": 0}
    with atomic_file(path, path.suffix) as temporary:
        writer: Any = imageio.v2.get_writer(temporary, **options)
        try:
            yield writer.append_data
        finally:
            # Not by `with`: it would leave the encoder running after an exception.
            writer.close()
