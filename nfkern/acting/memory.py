"""One block of memory for the tensors of a frozen flow."""

import mmap
from collections.abc import Iterable

import torch

HUGE_PAGE = 2 << 20
LINE = 64


def place_together(tensors: Iterable[torch.Tensor]) -> None:
    """Move tensors on the CPU, in this order, into one block of huge pages.

    After a pause the weights come from memory, and with ordinary pages half of that time goes by in finding the pages.
    Where the system has no huge pages to give, or the tensors are few bytes, all stays as it is; so do tensors of other
    classes or layouts, and those that share their memory.
    """
    found = [tensor for tensor in tensors if _movable(tensor)]
    starts, size = [], 0
    for tensor in found:
        starts.append(size)
        size += -(-tensor.nbytes // LINE) * LINE
    if size < HUGE_PAGE // 2 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE
    # Private, for huge pages of shared memory are another setting of the system.
    try:
        memory = mmap.mmap(-1, whole + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return
    first = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE_PAGE
    block = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=first)
    for tensor, start in zip(found, starts, strict=True):
        place = block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor)


def _movable(tensor: torch.Tensor) -> bool:
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    return plain and tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
