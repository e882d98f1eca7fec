"""LAMB's two phases as Triton programs."""

import triton
import triton.language as tl

from anybatch.optim.kernels.triton_programs import (
    ADVANCES,
    CHUNK_COLUMNS,
    CORRECTS,
    DECAY_1,
    DECAY_2,
    EPS,
    FIRST_STATE,
    GRADIENT,
    GROUP,
    LAYER_COLUMNS,
    LOG_DECAY_1,
    LOG_DECAY_2,
    PARAMETER,
    SECOND_STATE,
    SETTING_COLUMNS,
    STEP,
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


@triton.jit
def lamb_moments(
    chunks, layers, settings, squares, stride, estimates, clip,
    X_DTYPE: tl.constexpr, GRADIENT_DTYPE: tl.constexpr, NESTEROV: tl.constexpr, CLIP: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Phase 1: m and v advance; squares, (2, chunks): |x|^2 and |u|^2 of every chunk.

    estimates, (layers, 4): the factors of m_hat and v_hat, for phase 2, in which the steps advance.
    """
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    layer = tl.load(chunk)
    row = layers + layer * LAYER_COLUMNS
    own = settings + tl.load(row + GROUP) * SETTING_COLUMNS
    t = tl.load(tl.load(row + STEP).to(tl.pointer_type(tl.float32))).to(tl.float64) + 1.0
    of_m, of_g = _look_ahead(own, DECAY_1, LOG_DECAY_1, t, NESTEROV > 0)
    of_v, of_gg = _look_ahead(own, DECAY_2, LOG_DECAY_2, t, NESTEROV > 1)
    if tl.load(chunk + 1) == 0:
        tl.store(estimates + 4 * layer, of_m)
        tl.store(estimates + 4 * layer + 1, of_g)
        tl.store(estimates + 4 * layer + 2, of_v)
        tl.store(estimates + 4 * layer + 3, of_gg)
    scale = gradient_scale(own, clip, CLIP)
    if tl.load(chunk + 3) != 0:
        _advance(
            row, own, chunk, scale, of_m, of_g, of_v, of_gg, squares + index, stride,
            X_DTYPE, GRADIENT_DTYPE, NESTEROV, True, CHUNK, BLOCK,
        )  # fmt: skip
    else:
        _advance(
            row, own, chunk, scale, of_m, of_g, of_v, of_gg, squares + index, stride,
            X_DTYPE, GRADIENT_DTYPE, NESTEROV, False, CHUNK, BLOCK,
        )  # fmt: skip


@triton.jit
def _look_ahead(own, DECAY, LOG_DECAY, t, NESTEROV):
    """(a, b) of the estimate a * moment + b * gradient."""
    decay = tl.load(own + DECAY)
    log_decay = tl.load(own + LOG_DECAY)
    corrects = tl.load(own + CORRECTS) != 0.0
    now = tl.where(corrects, 1.0 - tl.exp(t * log_decay), 1.0)
    of_moment = 1.0 / now
    of_gradient = 0.0 * now
    if NESTEROV:
        of_moment = decay / tl.where(corrects, 1.0 - tl.exp((t + 1.0) * log_decay), 1.0)
        of_gradient = (1.0 - decay) / now
    return of_moment.to(tl.float32), of_gradient.to(tl.float32)


@triton.jit
def _advance(
    row, own, chunk, scale, of_m, of_g, of_v, of_gg, squares, stride,
    X_DTYPE, GRADIENT_DTYPE, NESTEROV, ALIGNED, CHUNK, BLOCK: tl.constexpr,
):  # fmt: skip
    decay_1 = tl.load(own + DECAY_1).to(tl.float32)
    decay_2 = tl.load(own + DECAY_2).to(tl.float32)
    share_1 = (1.0 - tl.load(own + DECAY_1)).to(tl.float32)
    share_2 = (1.0 - tl.load(own + DECAY_2)).to(tl.float32)
    eps = tl.load(own + EPS).to(tl.float32)
    weight_decay = tl.load(own + WEIGHT_DECAY).to(tl.float32)
    xs = elements(row, X, chunk, X_DTYPE, ALIGNED, CHUNK)
    gs = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, ALIGNED, CHUNK)
    ms = elements(row, FIRST_STATE, chunk, tl.float32, ALIGNED, CHUNK)
    vs = elements(row, SECOND_STATE, chunk, tl.float32, ALIGNED, CHUNK)
    count = number_of(chunk, ALIGNED)
    lanes = tl.arange(0, BLOCK)
    of_x = tl.zeros((BLOCK,), tl.float64)
    of_u = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + lanes
        there = at < count
        x = tl.load(xs + at, mask=there, other=0.0).to(tl.float32)
        g = tl.load(gs + at, mask=there, other=0.0).to(tl.float32) * scale
        m = tl.load(ms + at, mask=there, other=0.0)
        v = tl.load(vs + at, mask=there, other=0.0)
        m = m * decay_1 + share_1 * g
        v = v * decay_2 + share_2 * (g * g)
        tl.store(ms + at, m, mask=there)
        tl.store(vs + at, v, mask=there)
        u = _update(x, g, m, v, of_m, of_g, of_v, of_gg, eps, weight_decay, NESTEROV)
        of_x += square(x)
        of_u += tl.where(there, square(u), 0.0)
    tl.store(squares, tl.sum(of_x))
    tl.store(squares + stride, tl.sum(of_u))


@triton.jit
def _update(x, g, m, v, of_m, of_g, of_v, of_gg, eps, weight_decay, NESTEROV):
    """u = m_hat / (sqrt(v_hat) + eps) + wd x."""
    m_hat = m * of_m
    v_hat = v * of_v
    if NESTEROV > 0:
        m_hat += g * of_g
    if NESTEROV > 1:
        v_hat += (g * g) * of_gg
    return tl.div_rn(m_hat, tl.sqrt_rn(v_hat) + eps) + weight_decay * x


@triton.jit
def lamb_apply(
    chunks, layers, settings, squares, stride, first, estimates, clip, record, number,
    X_DTYPE: tl.constexpr, PARAMETER_DTYPE: tl.constexpr, GRADIENT_DTYPE: tl.constexpr, RATE_DTYPE: tl.constexpr,
    NESTEROV: tl.constexpr, CLIP: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Phase 2: x <- x - lr * ratio * u. u is made again from m, v, x: as many bytes as keeping it, and no scratch."""
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    layer = tl.load(chunk)
    row = layers + layer * LAYER_COLUMNS
    own = settings + tl.load(row + GROUP) * SETTING_COLUMNS
    ratio = trust(layer, own, squares, stride, first, record, number, tl.load(chunk + 1) == 0, BLOCK)
    rate = no_larger(ratio * learning_rate(row, own, RATE_DTYPE))
    if (tl.load(chunk + 1) == 0) & (tl.load(row + ADVANCES) != 0):
        step = tl.load(row + STEP).to(tl.pointer_type(tl.float32))
        tl.store(step, tl.load(step) + 1.0)
    scale = gradient_scale(own, clip, CLIP)
    if tl.load(chunk + 3) != 0:
        _move(
            row, own, chunk, scale, rate, estimates + 4 * layer,
            X_DTYPE, PARAMETER_DTYPE, GRADIENT_DTYPE, NESTEROV, True, CHUNK, BLOCK,
        )  # fmt: skip
    else:
        _move(
            row, own, chunk, scale, rate, estimates + 4 * layer,
            X_DTYPE, PARAMETER_DTYPE, GRADIENT_DTYPE, NESTEROV, False, CHUNK, BLOCK,
        )  # fmt: skip


@triton.jit
def _move(
    row, own, chunk, scale, rate, estimates,
    X_DTYPE, PARAMETER_DTYPE, GRADIENT_DTYPE, NESTEROV, ALIGNED, CHUNK, BLOCK: tl.constexpr,
):  # fmt: skip
    of_m = tl.load(estimates)
    of_g = tl.load(estimates + 1)
    of_v = tl.load(estimates + 2)
    of_gg = tl.load(estimates + 3)
    eps = tl.load(own + EPS).to(tl.float32)
    weight_decay = tl.load(own + WEIGHT_DECAY).to(tl.float32)
    xs = elements(row, X, chunk, X_DTYPE, ALIGNED, CHUNK)
    ps = elements(row, PARAMETER, chunk, PARAMETER_DTYPE, ALIGNED, CHUNK)
    gs = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, ALIGNED, CHUNK)
    ms = elements(row, FIRST_STATE, chunk, tl.float32, ALIGNED, CHUNK)
    vs = elements(row, SECOND_STATE, chunk, tl.float32, ALIGNED, CHUNK)
    count = number_of(chunk, ALIGNED)
    lanes = tl.arange(0, BLOCK)
    for start in range(0, count, BLOCK):
        at = start + lanes
        there = at < count
        x = tl.load(xs + at, mask=there, other=0.0).to(tl.float32)
        m = tl.load(ms + at, mask=there, other=0.0)
        v = tl.load(vs + at, mask=there, other=0.0)
        g = m
        if NESTEROV > 0:
            g = tl.load(gs + at, mask=there, other=0.0).to(tl.float32) * scale
        x -= rate * _update(x, g, m, v, of_m, of_g, of_v, of_gg, eps, weight_decay, NESTEROV)
        tl.store(xs + at, x.to(X_DTYPE), mask=there)
        if PARAMETER_DTYPE != X_DTYPE:
            tl.store(ps + at, x.to(PARAMETER_DTYPE), mask=there)
