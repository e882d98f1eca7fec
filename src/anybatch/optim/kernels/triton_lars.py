"""LARS's two phases as Triton programs, in all forms."""

import triton
import triton.language as tl

from anybatch.optim.kernels.triton_programs import (
    CHUNK_COLUMNS,
    DECAY_1,
    FIRST_STATE,
    GRADIENT,
    GROUP,
    IN_DIRECTION,
    LAYER_COLUMNS,
    PARAMETER,
    SETTING_COLUMNS,
    WEIGHT_DECAY,
    X,
    elements,
    gradient_scale,
    learning_rate,
    no_larger,
    number_of,
    square,
    trust,
)

AVERAGE = tl.constexpr(0)  # Algorithm 1 of the LAMB paper
RATE_INSIDE = tl.constexpr(1)  # You et al. 2017
RATE_OUTSIDE = tl.constexpr(2)  # timm


@triton.jit
def lars_directions(
    chunks, layers, settings, squares, stride, unused, clip,
    X_DTYPE: tl.constexpr, GRADIENT_DTYPE: tl.constexpr, FORM: tl.constexpr, NESTEROV: tl.constexpr,
    CLIP: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Phase 1: squares, (2, chunks): |x|^2 and |u|^2 of every chunk. Under Algorithm 1 u is m, which advances."""
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    row = layers + tl.load(chunk) * LAYER_COLUMNS
    own = settings + tl.load(row + GROUP) * SETTING_COLUMNS
    scale = gradient_scale(own, clip, CLIP)
    if tl.load(chunk + 3) != 0:
        _measure(
            row, own, chunk, scale, squares + index, stride,
            X_DTYPE, GRADIENT_DTYPE, FORM, NESTEROV, True, CHUNK, BLOCK,
        )  # fmt: skip
    else:
        _measure(
            row, own, chunk, scale, squares + index, stride,
            X_DTYPE, GRADIENT_DTYPE, FORM, NESTEROV, False, CHUNK, BLOCK,
        )  # fmt: skip


@triton.jit
def _measure(
    row, own, chunk, scale, squares, stride,
    X_DTYPE, GRADIENT_DTYPE, FORM, NESTEROV, ALIGNED, CHUNK, BLOCK: tl.constexpr,
):  # fmt: skip
    momentum = tl.load(own + DECAY_1).to(tl.float32)
    share = (1.0 - tl.load(own + DECAY_1)).to(tl.float32)
    of_x_in_u = tl.load(own + IN_DIRECTION).to(tl.float32)
    xs = elements(row, X, chunk, X_DTYPE, ALIGNED, CHUNK)
    gs = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, ALIGNED, CHUNK)
    ms = elements(row, FIRST_STATE, chunk, tl.float32, ALIGNED, CHUNK)
    count = number_of(chunk, ALIGNED)
    lanes = tl.arange(0, BLOCK)
    of_x = tl.zeros((BLOCK,), tl.float64)
    of_u = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + lanes
        there = at < count
        x = tl.load(xs + at, mask=there, other=0.0).to(tl.float32)
        u = tl.load(gs + at, mask=there, other=0.0).to(tl.float32) * scale + of_x_in_u * x
        if FORM == AVERAGE:
            m = tl.load(ms + at, mask=there, other=0.0)
            m = m * momentum + share * u
            tl.store(ms + at, m, mask=there)
            u = _average(u, m, momentum, share, NESTEROV)
        of_x += square(x)
        of_u += square(u)
    tl.store(squares, tl.sum(of_x))
    tl.store(squares + stride, tl.sum(of_u))


@triton.jit
def _average(d, m, momentum, share, NESTEROV):
    """m, or its look-ahead mu m + (1-mu) d."""
    if NESTEROV:
        m = m * momentum + share * d
    return m


@triton.jit
def lars_apply(
    chunks, layers, settings, squares, stride, first, unused, clip, record, number,
    X_DTYPE: tl.constexpr, PARAMETER_DTYPE: tl.constexpr, GRADIENT_DTYPE: tl.constexpr, RATE_DTYPE: tl.constexpr,
    FORM: tl.constexpr, NESTEROV: tl.constexpr, CLIP: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Phase 2: x <- x - outside * m; with the rate in or beside the buffer, m <- mu m + inside * d before."""
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    layer = tl.load(chunk)
    row = layers + layer * LAYER_COLUMNS
    own = settings + tl.load(row + GROUP) * SETTING_COLUMNS
    ratio = trust(layer, own, squares, stride, first, record, number, tl.load(chunk + 1) == 0, BLOCK)
    lr = learning_rate(row, own, RATE_DTYPE)
    inside, outside = 1.0, no_larger(ratio * lr)
    if FORM == RATE_INSIDE:
        inside, outside = no_larger(ratio * lr), 1.0
    if FORM == RATE_OUTSIDE:
        inside, outside = no_larger(ratio), no_larger(lr)
    scale = gradient_scale(own, clip, CLIP)
    if tl.load(chunk + 3) != 0:
        _move(
            row, own, chunk, scale, inside, outside,
            X_DTYPE, PARAMETER_DTYPE, GRADIENT_DTYPE, FORM, NESTEROV, True, CHUNK, BLOCK,
        )  # fmt: skip
    else:
        _move(
            row, own, chunk, scale, inside, outside,
            X_DTYPE, PARAMETER_DTYPE, GRADIENT_DTYPE, FORM, NESTEROV, False, CHUNK, BLOCK,
        )  # fmt: skip


@triton.jit
def _move(
    row, own, chunk, scale, inside, outside,
    X_DTYPE, PARAMETER_DTYPE, GRADIENT_DTYPE, FORM, NESTEROV, ALIGNED, CHUNK, BLOCK: tl.constexpr,
):  # fmt: skip
    momentum = tl.load(own + DECAY_1).to(tl.float32)
    share = (1.0 - tl.load(own + DECAY_1)).to(tl.float32)
    weight_decay = tl.load(own + WEIGHT_DECAY).to(tl.float32)
    xs = elements(row, X, chunk, X_DTYPE, ALIGNED, CHUNK)
    ps = elements(row, PARAMETER, chunk, PARAMETER_DTYPE, ALIGNED, CHUNK)
    gs = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, ALIGNED, CHUNK)
    ms = elements(row, FIRST_STATE, chunk, tl.float32, ALIGNED, CHUNK)
    count = number_of(chunk, ALIGNED)
    lanes = tl.arange(0, BLOCK)
    for start in range(0, count, BLOCK):
        at = start + lanes
        there = at < count
        x = tl.load(xs + at, mask=there, other=0.0).to(tl.float32)
        m = tl.load(ms + at, mask=there, other=0.0)
        d = m
        if (FORM != AVERAGE) | NESTEROV:
            d = tl.load(gs + at, mask=there, other=0.0).to(tl.float32) * scale + weight_decay * x
        if FORM == AVERAGE:
            u = _average(d, m, momentum, share, NESTEROV)
        else:
            m = m * momentum + inside * d
            tl.store(ms + at, m, mask=there)
            u = m
            if NESTEROV:
                u = inside * d + momentum * m
        x -= outside * u
        tl.store(xs + at, x.to(X_DTYPE), mask=there)
        if PARAMETER_DTYPE != X_DTYPE:
            tl.store(ps + at, x.to(PARAMETER_DTYPE), mask=there)
