r"""The coupling flow: its definition. K blocks of PLU mixing and conditional affine coupling.

Data to noise, block k: :math:`u = x M_k`, split into kept `a` (the first ceil(D/2) features) and `b`, then
:math:`b \leftarrow (b - \mathrm{shift}) \, e^{-\mathrm{log\_scale}}`. Noise to data undoes the coupling, then
:math:`x = u M_k` with the inverse matrices, blocks in reverse.

The derivatives recompute hidden units from each block's input, (K, rows, D), unless a forward pass keeps the hidden
activations as well, (K, 2, h1 + h2, rows). Activations are never reconstructed by inverting the flow.

Reference: Ghugare and Eysenbach, "Normalizing Flows are Capable Models for RL", 2025,
https://arxiv.org/abs/2505.23527; coupling: Dinh et al., "Density estimation using Real NVP", 2017,
https://arxiv.org/abs/1605.08803.
"""

import torch

from nfkern.kernels.affine.transform import AffineMap
from nfkern.kernels.coupling.conditioner import activations, conditioner, conditioner_backward, expand_context
from nfkern.kernels.coupling.parameters import CouplingParameters, Settings

Tensors = tuple[torch.Tensor, ...]
BlockGrads = tuple[torch.Tensor, torch.Tensor | None, CouplingParameters | None]  # mixing, context term, parameters


def to_latent(
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> Tensors:
    """(rows, D) -> noise (rows, D), log-det (rows), each block's input (K, rows, D), hidden activations or nothing."""
    terms = expand_context(context_term, x.shape[0])
    inputs, hidden, log_det = [], [], mixing_log_det.expand(x.shape[0])
    for k, block in enumerate(parameters.blocks()):
        inputs.append(x)
        kept, transformed = _split(x @ mixing[k])
        pair, layers = conditioner(kept, terms[k], block, settings)
        hidden += [activations(layers)] if keep_hidden else []
        affine = AffineMap.of(pair.unbind(0), settings.scale_bound)
        x = torch.cat([kept, affine.forward(transformed)], 1)
        log_det = log_det + affine.log_det().sum(1)
    return x, log_det, torch.stack(inputs), torch.stack(hidden) if keep_hidden else x.new_empty(0)


def to_data(
    z: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> Tensors:
    """(rows, D) -> data (rows, D), and the rest as `to_latent`; `mixing` holds the inverses."""
    terms = expand_context(context_term, z.shape[0])
    inputs, hidden, log_det = [], [], mixing_log_det.expand(z.shape[0])
    for k, block in _reversed(parameters):
        inputs.append(z)
        kept, transformed = _split(z)
        pair, layers = conditioner(kept, terms[k], block, settings)
        hidden += [activations(layers)] if keep_hidden else []
        affine = AffineMap.of(pair.unbind(0), settings.scale_bound)
        z = torch.cat([kept, affine.inverse(transformed)], 1) @ mixing[k]
        log_det = log_det - affine.log_det().sum(1)
    return z, log_det, torch.stack(inputs[::-1]), torch.stack(hidden[::-1]) if keep_hidden else z.new_empty(0)


def to_data_with_score(
    z: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    inverse_mixing: torch.Tensor,
    inverse_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
) -> Tensors:
    """(rows, D) -> data, its log-det (rows), and grad_x log p(x) (rows, D), in one sweep.

    Block k of the inverse holds the very hidden units that block k of the density's derivative needs, in the order in
    which it needs them, so the score of N(0, I) is carried along from noise to data.
    """
    terms = expand_context(context_term, z.shape[0])
    log_det, score = inverse_log_det.expand(z.shape[0]), -z
    for k, block in _reversed(parameters):
        kept, transformed = _split(z)
        pair, layers = conditioner(kept, terms[k], block, settings)
        affine = AffineMap.of(pair.unbind(0), settings.scale_bound)
        score_kept, score_transformed = _split(score)
        # The density gains the map's log-determinant.
        score_transformed, grads = affine.forward_vjp_from_latent(transformed, score_transformed, 1)
        grad_kept, _, _ = conditioner_backward(
            torch.stack(grads), kept, 1, layers, block, settings.compute_dtype, False
        )
        score = torch.cat([score_kept + grad_kept, score_transformed], 1) @ mixing[k].mT
        z = torch.cat([kept, affine.inverse(transformed)], 1) @ inverse_mixing[k]
        log_det = log_det - affine.log_det().sum(1)
    return z, log_det, score


def to_latent_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    parameter_grads: bool,
    hidden: torch.Tensor | None = None,
) -> Tensors:
    """Gradients of x, and with `parameter_grads` of the context term, the mixing matrices and every parameter.

    Those of a folded set's parameters are empty. `hidden` is what the forward pass kept, or None.
    """
    terms, collected = expand_context(context_term, grad.shape[0]), list[BlockGrads]()
    for k, block in _reversed(parameters):
        kept, transformed = _split(inputs[k] @ mixing[k])
        found = None if hidden is None else hidden[k]
        pair, layers = conditioner(kept, terms[k], block, settings, found)
        affine = AffineMap.of(pair.unbind(0), settings.scale_bound)
        grad_kept, grad_transformed = _split(grad)
        grad_transformed, grads = affine.forward_vjp(transformed, grad_transformed, grad_log_det.unsqueeze(1))
        through, term_grad, parameters_grad = conditioner_backward(
            torch.stack(grads), kept, context_term.shape[0], layers, block, settings.compute_dtype, parameter_grads
        )
        grad = torch.cat([grad_kept + through, grad_transformed], 1)
        collected.append((inputs[k].mT @ grad, term_grad, parameters_grad))
        grad = grad @ mixing[k].mT
    return _stacked(grad, collected[::-1])


def to_data_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    parameter_grads: bool,
    hidden: torch.Tensor | None = None,
) -> Tensors:
    """Gradients of z, and with `parameter_grads` of the context term, the (inverse) matrices and every parameter.

    Those of a folded set's parameters are empty.
    """
    terms, collected = expand_context(context_term, grad.shape[0]), list[BlockGrads]()
    for k, block in enumerate(parameters.blocks()):
        kept, transformed = _split(inputs[k])
        found = None if hidden is None else hidden[k]
        pair, layers = conditioner(kept, terms[k], block, settings, found)
        affine = AffineMap.of(pair.unbind(0), settings.scale_bound)
        mixing_grad = torch.cat([kept, affine.inverse(transformed)], 1).mT @ grad
        grad_kept, grad_transformed = _split(grad @ mixing[k].mT)
        grad_transformed, grads = affine.inverse_vjp(transformed, grad_transformed, grad_log_det.unsqueeze(1))
        through, term_grad, parameters_grad = conditioner_backward(
            torch.stack(grads), kept, context_term.shape[0], layers, block, settings.compute_dtype, parameter_grads
        )
        grad = torch.cat([grad_kept + through, grad_transformed], 1)
        collected.append((mixing_grad, term_grad, parameters_grad))
    return _stacked(grad, collected)


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept ceil(D/2) features and the transformed rest."""
    kept, transformed = torch.tensor_split(x, 2, 1)
    return kept, transformed


def _reversed(parameters: CouplingParameters) -> list[tuple[int, CouplingParameters]]:
    return list(enumerate(parameters.blocks()))[::-1]


def _stacked(grad: torch.Tensor, collected: list[BlockGrads]) -> Tensors:
    """The input's gradient, followed by those of context term, mixing and parameters, stacked over blocks."""
    terms = [term for _, term, _ in collected if term is not None]
    parameters = [grads for _, _, grads in collected if grads is not None]
    nothing = [grad.new_empty(0) for _ in CouplingParameters._fields]
    if not terms:
        return (grad, grad.new_empty(0), grad.new_empty(0), *nothing)
    stacked = [torch.stack(grads) for grads in zip(*parameters, strict=True)] or nothing
    return (grad, torch.stack(terms, 1), torch.stack([mixing for mixing, _, _ in collected]), *stacked)
