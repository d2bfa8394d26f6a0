"""PLU mixing: K invertible linear maps `x @ W_k`, `W = P L (U + diag s)`, kept as packed LU factors.

`lu` (K, D, D) holds L strictly below the diagonal (its unit diagonal is implied), U strictly above it and s on it, the
layout of `torch.linalg.lu_factor`; `permutation` (K, D) holds P as `(P M)[i] = M[permutation[i]]`. Everything is
composed in float64 whatever the dtype: D is at most a few dozen, and an inverse in float32 is where other flows lose
their round trip.

Reference: Kingma and Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018,
https://arxiv.org/abs/1807.03039.
"""

import torch


def compose(lu: torch.Tensor, permutation: torch.Tensor, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """W or its inverse, (K, D, D), and the sum over blocks of its log|det|, ()."""
    lower, upper = _factors(lu.double())
    log_det = lu.double().diagonal(dim1=-2, dim2=-1).abs().log().sum()
    if inverse:
        return _inverse(lower, upper, permutation).to(lu.dtype), -log_det.to(lu.dtype)
    rows = permutation.unsqueeze(-1).expand_as(lu)
    return torch.gather(lower @ upper, 1, rows).to(lu.dtype), log_det.to(lu.dtype)


def compose_backward(
    grad_matrix: torch.Tensor, grad_log_det: torch.Tensor, lu: torch.Tensor, permutation: torch.Tensor, inverse: bool
) -> torch.Tensor:
    """Gradient of `compose` with respect to lu, (K, D, D)."""
    lower, upper = _factors(lu.double())
    grad = grad_matrix.double()
    if inverse:
        # d(W^-1) = -W^-1 dW W^-1
        transposed = _inverse(lower, upper, permutation).mT
        grad = -transposed @ grad @ transposed
    rows = permutation.unsqueeze(-1).expand_as(lu)
    product_grad = torch.zeros_like(grad).scatter(1, rows, grad)
    log_det_grad = torch.diag_embed(grad_log_det.double() / lu.double().diagonal(dim1=-2, dim2=-1))
    if inverse:
        log_det_grad = -log_det_grad
    lower_grad = torch.tril(product_grad @ upper.mT, -1)
    upper_grad = torch.triu(lower.mT @ product_grad)
    return (lower_grad + upper_grad + log_det_grad).to(lu.dtype)


def _factors(lu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L with its unit diagonal, and U + diag s."""
    return torch.tril(lu, -1) + torch.eye(lu.shape[-1], dtype=lu.dtype, device=lu.device), torch.triu(lu)


def _inverse(lower: torch.Tensor, upper: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """`W^-1 = (U + diag s)^-1 L^-1 P^T`: two triangular solves, then a permutation of columns."""
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    lower_inverse = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
    product_inverse = torch.linalg.solve_triangular(upper, lower_inverse, upper=True)
    return torch.gather(product_inverse, 2, permutation.unsqueeze(1).expand_as(lower))
