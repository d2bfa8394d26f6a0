"""What this GPU can do at best: copies, matrix products, and one launch after another in a graph."""

from collections.abc import Iterator
from typing import Any

import torch

from nfkern.acting.cuda_graphs import Capture
from nfkern.bench.kernels.gpu_check.problems import matmul_precision
from nfkern.bench.kernels.gpu_check.timing import graph_seconds
from nfkern.kernels.dispatch.triton_backend import launch

LAUNCHES, PROGRAMS = 200, 16
_EDGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {"PDL": False}),
    ("with programmatic dependent launch", {"PDL": True, "launch_pdl": True}),
)


def limits(device: torch.device, capture: Capture, size: int, copied: int) -> Iterator[str]:
    """One line each.

    Args:
        device: where.
        capture: how to capture a graph.
        size: of the matrices.
        copied: bytes.
    """
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    seconds = graph_seconds(target.copy_, [(source,)], device, capture, replays=20)
    yield f"copy of {copied >> 20} MiB: {2 * copied / seconds / 1e12:.3g} TB/s read and written"
    del source, target
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("fp32", torch.float32, "ieee"),
    ):
        # Random numbers: zeros take less power and so run faster.
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        with matmul_precision(precision):
            seconds = graph_seconds(torch.matmul, [(left, right)], device, capture, replays=20)
        yield f"product of two {size} x {size} matrices, {name}: {2 * size**3 / seconds / 1e12:.3g} TFLOP/s"
    if device.type != "cuda":
        yield "launches in a graph: needs a GPU"
        return
    yield from _edges(device, capture)


def _edges(device: torch.device, capture: Capture) -> Iterator[str]:
    from nfkern.bench.kernels.gpu_check.empty_kernel import empty_kernel

    dependent = torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
    for kind, options in _EDGES if dependent else _EDGES[:1]:

        def work(like: torch.Tensor, options: dict[str, Any] = options) -> None:
            for _ in range(LAUNCHES):
                launch(empty_kernel, (PROGRAMS,), **options)

        seconds = graph_seconds(work, [(torch.empty(1, device=device),)], device, capture)
        yield f"{LAUNCHES} empty kernels in a graph, {kind}: {seconds / LAUNCHES * 1e6:.3g} us each"
