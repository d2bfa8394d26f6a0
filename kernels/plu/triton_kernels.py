# mypy: ignore-errors
"""PLU mixing on a GPU: device code, one program a block and seed, in float64 as the definition.

A matrix of up to 64 x 64 is a tile in registers. Sums over an index go step by step, with rows and columns read from
memory; a triangular solve takes the same form, each step eliminating one row.
"""

import triton
import triton.language as tl

# Argument lists stay together.
# fmt: off


@triton.jit
def lower_column(lu, j, rows, SIZE: tl.constexpr):
    """Column j of L, with its unit diagonal, at `rows`."""
    values = tl.load(lu + rows * SIZE + j, mask=(rows < SIZE) & (rows > j), other=0.0).to(tl.float64)
    return tl.where(rows == j, 1.0, values)


@triton.jit
def solve(lu, permutation, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """The inverse of `P L (U + diag s)`: L, then U, solved with P^T on the right-hand side."""
    rows = tl.arange(0, PADDED)
    placed = tl.load(permutation + rows, mask=rows < SIZE, other=PADDED)
    x = tl.where(rows[:, None] == placed[None, :], 1.0, 0.0).to(tl.float64)
    for i in range(SIZE):
        row = tl.sum(tl.where(rows[:, None] == i, x, 0.0), 0)
        below = tl.load(lu + rows * SIZE + i, mask=(rows > i) & (rows < SIZE), other=0.0).to(tl.float64)
        x -= below[:, None] * row[None, :]
    for step in range(SIZE):
        i = SIZE - 1 - step
        row = tl.sum(tl.where(rows[:, None] == i, x, 0.0), 0) / tl.load(lu + i * SIZE + i).to(tl.float64)
        above = tl.load(lu + rows * SIZE + i, mask=rows < i, other=0.0).to(tl.float64)
        x = tl.where(rows[:, None] == i, row[None, :], x - above[:, None] * row[None, :])
    return x


@triton.jit
def compose_kernel(
    lu, permutation, matrix, log_det, BLOCKS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
    DIAGONALS: tl.constexpr, INVERSE: tl.constexpr,
):
    """A block's matrix or its inverse; the first block's program also adds up all blocks' log-determinants."""
    seed, k = tl.program_id(1).to(tl.int64), tl.program_id(0)
    rows = tl.arange(0, PADDED)
    within = (rows < SIZE)[:, None] & (rows < SIZE)[None, :]
    if k == 0:
        at = tl.arange(0, DIAGONALS)
        places = lu + seed * BLOCKS * SIZE * SIZE + (at // SIZE) * (SIZE * SIZE) + (at % SIZE) * (SIZE + 1)
        diagonal = tl.load(places, mask=at < BLOCKS * SIZE, other=1.0).to(tl.float64)
        total = tl.sum(tl.log(tl.abs(diagonal)), 0)
        tl.store(log_det + seed, (-total if INVERSE else total).to(tl.float32))
    block = seed * BLOCKS + k
    lu += block * SIZE * SIZE
    permutation += block * SIZE
    if INVERSE:
        result = solve(lu, permutation, SIZE, PADDED)
    else:
        placed = tl.load(permutation + rows, mask=rows < SIZE, other=0)
        result = tl.zeros((PADDED, PADDED), tl.float64)
        for j in range(SIZE):
            upper = tl.load(lu + j * SIZE + rows, mask=(rows < SIZE) & (rows >= j), other=0.0).to(tl.float64)
            result += lower_column(lu, j, placed, SIZE)[:, None] * upper[None, :]
    at = rows[:, None] * SIZE + rows[None, :]
    tl.store(matrix + block * SIZE * SIZE + at, result.to(tl.float32), mask=within)


@triton.jit
def compose_backward_kernel(
    grad, grad_log_det, lu, permutation, result, scratch, BLOCKS: tl.constexpr, SIZE: tl.constexpr,
    PADDED: tl.constexpr, INVERSE: tl.constexpr,
):
    """Gradient of a block's packed factors; `scratch` (blocks, 3, SIZE, SIZE), float64, serves the inverse's."""
    seed, k = tl.program_id(1).to(tl.int64), tl.program_id(0)
    block = seed * BLOCKS + k
    lu += block * SIZE * SIZE
    permutation += block * SIZE
    grad += block * SIZE * SIZE
    result += block * SIZE * SIZE
    rows = tl.arange(0, PADDED)
    inside = rows < SIZE
    within, at = inside[:, None] & inside[None, :], rows[:, None] * SIZE + rows[None, :]
    placed = tl.load(permutation + rows, mask=inside, other=0)
    lower_part, upper_part = tl.zeros((PADDED, PADDED), tl.float64), tl.zeros((PADDED, PADDED), tl.float64)
    outer = grad
    if INVERSE:
        # d(W^-1) = -W^-1 dW W^-1: the gradient of W is -W^-T grad W^-T
        inverse = scratch + block * 3 * SIZE * SIZE
        half, outer = inverse + SIZE * SIZE, inverse + 2 * SIZE * SIZE
        tl.store(inverse + at, solve(lu, permutation, SIZE, PADDED), mask=within)
        tl.debug_barrier()
        for j in range(SIZE):
            left = tl.load(inverse + j * SIZE + rows, mask=inside, other=0.0)
            lower_part -= left[:, None] * tl.load(grad + j * SIZE + rows, mask=inside, other=0.0)[None, :]
        tl.store(half + at, lower_part, mask=within)
        tl.debug_barrier()
        for j in range(SIZE):
            left = tl.load(half + rows * SIZE + j, mask=inside, other=0.0)
            upper_part += left[:, None] * tl.load(inverse + rows * SIZE + j, mask=inside, other=0.0)[None, :]
        tl.store(outer + at, upper_part, mask=within)
        tl.debug_barrier()
        lower_part, upper_part = tl.zeros((PADDED, PADDED), tl.float64), tl.zeros((PADDED, PADDED), tl.float64)
    for j in range(SIZE):
        # Row i of the matrix is row `placed[i]` of L U.
        column = tl.load(outer + rows * SIZE + j, mask=inside, other=0.0).to(tl.float64)
        upper = tl.load(lu + rows * SIZE + j, mask=inside & (rows <= j), other=0.0).to(tl.float64)
        lower_part += column[:, None] * upper[None, :]
        place = tl.load(permutation + j)
        left = tl.load(lu + place * SIZE + rows, mask=inside & (rows < place), other=0.0).to(tl.float64)
        left = tl.where(rows == place, 1.0, left)
        row = tl.load(outer + j * SIZE + rows, mask=inside, other=0.0).to(tl.float64)
        upper_part += left[:, None] * row[None, :]
    diagonal = tl.load(lu + rows * (SIZE + 1), mask=inside, other=1.0).to(tl.float64)
    from_log_det = tl.load(grad_log_det + seed).to(tl.float64) / diagonal
    upper_part += tl.where(rows[:, None] == rows[None, :], -from_log_det if INVERSE else from_log_det, 0.0)
    tl.store(
        result + placed[:, None] * SIZE + rows[None, :], lower_part.to(tl.float32),
        mask=within & (rows[None, :] < placed[:, None]),
    )
    tl.store(result + at, upper_part.to(tl.float32), mask=within & (rows[:, None] <= rows[None, :]))
