"""Checkpoints of other codes as nfkern's flows: the same function, with the weights moved to their new places."""

from nfkern.convert.converted import Converted
from nfkern.convert.paper import paper_jax, paper_torch
from nfkern.convert.tarflow import tarflow

__all__ = ["Converted", "paper_jax", "paper_torch", "tarflow"]
