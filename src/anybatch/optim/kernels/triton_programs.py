"""The Triton programs of LAMB and LARS: each works on one chunk of one layer.

Tables on the device say what a program works on; `triton.py` writes them.

    chunks    int32, a row a program     layer; index of the chunk in it; elements; 1 where vector loads are allowed
    layers    int64, a row a layer       the columns named below, of which the first seven are addresses
    settings  float64, a row a group     the columns named below
    first     int32, (layers + 1,)       the first chunk of every layer: its chunks follow each other

x is what a step moves: the parameter, or the fp32 master that the parameter is rounded from. Elements are computed in
fp32 with IEEE division and roots; squares are summed in float64, always in the same order.

A program is compiled for one KIND of algorithm. Its loop is there twice, with and without vector loads.
"""

import triton
import triton.language as tl

LAMB = tl.constexpr(0)
AVERAGE = tl.constexpr(1)  # LARS, Algorithm 1 of the LAMB paper
SUM = tl.constexpr(2)  # LARS, the older forms: the ratio is inside the momentum buffer

CHUNK_COLUMNS = tl.constexpr(4)

LAYER_COLUMNS = tl.constexpr(10)
X = tl.constexpr(0)
PARAMETER = tl.constexpr(1)
GRADIENT = tl.constexpr(2)
FIRST_STATE = tl.constexpr(3)
SECOND_STATE = tl.constexpr(4)
STEP = tl.constexpr(5)
RATE = tl.constexpr(6)  # a learning rate that is a tensor on the device
GROUP = tl.constexpr(7)
TENSOR = tl.constexpr(8)
ADVANCES = tl.constexpr(9)  # 1 in one layer of every tensor, whose first chunk counts the step

# Of `rule`, in the order of the columns; of the clipped gradient's scale the sign.
SETTINGS = (
    "lr", "beta1", "beta2", "log_beta1", "log_beta2", "eps", "weight_decay", "bias_correction", "scale",
    "adapt", "coefficient", "ratio_eps", "phi_low", "phi_high", "low", "high", "joint_norm", "rate_inside",
)  # fmt: skip
(
    LR, BETA1, BETA2, LOG_BETA1, LOG_BETA2, EPS, WEIGHT_DECAY, CORRECTS, SIGN,
    ADAPT, COEFFICIENT, RATIO_EPS, PHI_LOW, PHI_HIGH, LOW, HIGH, JOINT, RATE_INSIDE,
) = map(tl.constexpr, range(len(SETTINGS)))  # fmt: skip
SETTING_COLUMNS = tl.constexpr(len(SETTINGS))

LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def elements(row, column, chunk, DTYPE, ALIGNED, CHUNK):
    """The chunk's first element. A hint clings to the value that it is given to, so every use casts an address anew."""
    pointer = tl.load(row + column).to(tl.pointer_type(DTYPE)) + tl.load(chunk + 1).to(tl.int64) * CHUNK
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def number_of(chunk, ALIGNED):
    count = tl.load(chunk + 2)
    if ALIGNED:
        count = tl.multiple_of(count, 8)
    return count


@triton.jit
def fp32(own, COLUMN):
    """A setting in the precision of the elements."""
    return tl.load(own + COLUMN).to(tl.float32)


@triton.jit
def one_minus(own, COLUMN):
    """1 - decay, rounded once."""
    return (1.0 - tl.load(own + COLUMN)).to(tl.float32)


@triton.jit
def square(z):
    wide = z.to(tl.float64)
    return wide * wide


@triton.jit
def total(values, start, end, LANES: tl.constexpr):
    """The sum of values[start:end], read past the L1, which may hold what other programs have replaced since."""
    lanes = tl.arange(0, LANES)
    sums = tl.zeros((LANES,), tl.float64)
    for at in range(start, end, LANES):
        sums += tl.load(values + at + lanes, mask=at + lanes < end, other=0.0, cache_modifier=".cg")
    return tl.sum(sums)


@triton.jit
def gradient_scale(own, clip, CLIP):
    scale = tl.load(own + SIGN)
    if CLIP:
        scale *= tl.load(clip)
    return scale.to(tl.float32)


@triton.jit
def within(value, low, high):
    """(clamped, whether it had to be); NaN stays NaN, which a minimum would swallow."""
    return tl.where(value < low, low, tl.where(value > high, high, value)), (value < low) | (value > high)


@triton.jit
def no_larger(rate):
    """In fp32. A vanishing update can have a ratio that fp32 does not hold; infinity times that update is no step."""
    return tl.where(rate > LARGEST, LARGEST, rate).to(tl.float32)


@triton.jit
def trust(layer, own, squares, stride, first, record, number, records, KIND, LANES):
    """The ratio of a layer, from the squares of its chunks; where `records`, a column: |x|, |u|, ratio, clamped."""
    start = tl.load(first + layer)
    end = tl.load(first + layer + 1)
    weight = tl.sqrt(total(squares, start, end, LANES))
    update = tl.sqrt(total(squares + stride, start, end, LANES))
    ratio = tl.full((), 1.0, tl.float64)
    clamped = tl.full((), 0.0, tl.float64)
    if tl.load(own + ADAPT) != 0.0:
        if KIND == SUM:  # |g| + wd |x|, or |g + wd x|
            decay = tl.where(tl.load(own + JOINT) != 0.0, 0.0, tl.load(own + WEIGHT_DECAY))
            update = tl.where(update == 0.0, 0.0, update + decay * weight)
        still = (weight == 0.0) | (update == 0.0)
        size, outside_phi = within(weight, tl.load(own + PHI_LOW), tl.load(own + PHI_HIGH))
        raw = tl.load(own + COEFFICIENT) * size / tl.where(still, 1.0, update + tl.load(own + RATIO_EPS))
        kept, outside_clip = within(raw, tl.load(own + LOW), tl.load(own + HIGH))
        ratio = tl.where(still, 1.0, kept)
        clamped = tl.where(still, 0.0, (outside_phi | outside_clip).to(tl.float64))
    if records:
        tl.store(record + layer, weight)
        tl.store(record + number + layer, update)
        tl.store(record + 2 * number + layer, ratio)
        tl.store(record + 3 * number + layer, clamped)
    return ratio


@triton.jit
def learning_rate(row, own, RATE_DTYPE):
    if RATE_DTYPE is None:
        lr = tl.load(own + LR)
    else:
        lr = tl.load(tl.load(row + RATE).to(tl.pointer_type(RATE_DTYPE))).to(tl.float64)
    return lr


@triton.jit
def estimate(own, BETA, LOG_BETA, t, LOOKS_AHEAD):
    """(a, b) of LAMB's estimate a * moment + b * gradient."""
    beta = tl.load(own + BETA)
    log_beta = tl.load(own + LOG_BETA)
    corrects = tl.load(own + CORRECTS) != 0.0
    now = tl.where(corrects, 1.0 - tl.exp(t * log_beta), 1.0)
    of_moment = 1.0 / now
    of_gradient = 0.0 * now
    if LOOKS_AHEAD:
        of_moment = beta / tl.where(corrects, 1.0 - tl.exp((t + 1.0) * log_beta), 1.0)
        of_gradient = (1.0 - beta) / now
    return of_moment.to(tl.float32), of_gradient.to(tl.float32)


@triton.jit
def lamb_update(x, g, m, v, of_m, of_g, of_v, of_gg, eps, weight_decay, NESTEROV):
    """u = m_hat / (sqrt(v_hat) + eps) + wd x."""
    m_hat = m * of_m
    v_hat = v * of_v
    if NESTEROV > 0:
        m_hat += g * of_g
    if NESTEROV > 1:
        v_hat += (g * g) * of_gg
    return tl.div_rn(m_hat, tl.sqrt_rn(v_hat) + eps) + weight_decay * x


@triton.jit
def lars_average(d, m, momentum, share, NESTEROV):
    """m, or its look-ahead mu m + (1-mu) d."""
    if NESTEROV:
        m = m * momentum + share * d
    return m


@triton.jit
def measure(
    chunks, layers, settings, squares, stride, estimates, clip, CLIP: tl.constexpr,
    X_DTYPE: tl.constexpr, PARAMETER_DTYPE: tl.constexpr, GRADIENT_DTYPE: tl.constexpr, RATE_DTYPE: tl.constexpr,
    KIND: tl.constexpr, NESTEROV: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Phase 1: squares, (2, chunks): |x|^2 and |u|^2 of every chunk.

    LAMB's m and v advance, and m under Algorithm 1, where it is u; under the older forms u is the gradient, or d.

    estimates, (layers, 4): LAMB's factors of m_hat and v_hat, for phase 2, in which the steps advance.
    """
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    layer = tl.load(chunk)
    row = layers + layer * LAYER_COLUMNS
    own = settings + tl.load(row + GROUP) * SETTING_COLUMNS
    scale = gradient_scale(own, clip, CLIP)
    beta1 = fp32(own, BETA1)
    share1 = one_minus(own, BETA1)
    weight_decay = fp32(own, WEIGHT_DECAY)
    if KIND == LAMB:
        beta2 = fp32(own, BETA2)
        share2 = one_minus(own, BETA2)
        eps = fp32(own, EPS)
        t = tl.load(tl.load(row + STEP).to(tl.pointer_type(tl.float32))).to(tl.float64) + 1.0
        of_m, of_g = estimate(own, BETA1, LOG_BETA1, t, NESTEROV > 0)
        of_v, of_gg = estimate(own, BETA2, LOG_BETA2, t, NESTEROV > 1)
        if tl.load(chunk + 1) == 0:
            tl.store(estimates + 4 * layer, of_m)
            tl.store(estimates + 4 * layer + 1, of_g)
            tl.store(estimates + 4 * layer + 2, of_v)
            tl.store(estimates + 4 * layer + 3, of_gg)
    if KIND == SUM:
        weight_decay = tl.where(tl.load(own + JOINT) != 0.0, weight_decay, 0.0)
    lanes = tl.arange(0, BLOCK)
    for aligned in tl.static_range(2):
        if tl.load(chunk + 3) == aligned:
            xs = elements(row, X, chunk, X_DTYPE, aligned, CHUNK)
            gs = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, aligned, CHUNK)
            ms = elements(row, FIRST_STATE, chunk, tl.float32, aligned, CHUNK)
            if KIND == LAMB:
                vs = elements(row, SECOND_STATE, chunk, tl.float32, aligned, CHUNK)
            count = number_of(chunk, aligned)
            of_x = tl.zeros((BLOCK,), tl.float64)
            of_u = tl.zeros((BLOCK,), tl.float64)
            for start in range(0, count, BLOCK):
                at = start + lanes
                there = at < count
                x = tl.load(xs + at, mask=there, other=0.0).to(tl.float32)
                u = tl.load(gs + at, mask=there, other=0.0).to(tl.float32) * scale
                if KIND == LAMB:
                    g = u
                    m = tl.load(ms + at, mask=there, other=0.0)
                    v = tl.load(vs + at, mask=there, other=0.0)
                    m = m * beta1 + share1 * g
                    v = v * beta2 + share2 * (g * g)
                    tl.store(ms + at, m, mask=there)
                    tl.store(vs + at, v, mask=there)
                    u = lamb_update(x, g, m, v, of_m, of_g, of_v, of_gg, eps, weight_decay, NESTEROV)
                    u = tl.where(there, u, 0.0)
                else:
                    u += weight_decay * x
                if KIND == AVERAGE:
                    m = tl.load(ms + at, mask=there, other=0.0)
                    m = m * beta1 + share1 * u
                    tl.store(ms + at, m, mask=there)
                    u = lars_average(u, m, beta1, share1, NESTEROV)
                of_x += square(x)
                of_u += square(u)
            tl.store(squares + index, tl.sum(of_x))
            tl.store(squares + stride + index, tl.sum(of_u))


@triton.jit
def apply(
    chunks, layers, settings, squares, stride, first, estimates, clip, record, number, CLIP: tl.constexpr,
    X_DTYPE: tl.constexpr, PARAMETER_DTYPE: tl.constexpr, GRADIENT_DTYPE: tl.constexpr, RATE_DTYPE: tl.constexpr,
    KIND: tl.constexpr, NESTEROV: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Phase 2: x <- x - outside * u; under LARS's older forms, where u is m, m <- mu m + inside * d before.

    LAMB's u is made again from m, v and x: as many bytes as keeping it, and no scratch.
    """
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    layer = tl.load(chunk)
    row = layers + layer * LAYER_COLUMNS
    own = settings + tl.load(row + GROUP) * SETTING_COLUMNS
    leads = tl.load(chunk + 1) == 0
    ratio = trust(layer, own, squares, stride, first, record, number, leads, KIND, BLOCK)
    lr = learning_rate(row, own, RATE_DTYPE)
    scale = gradient_scale(own, clip, CLIP)
    weight_decay = fp32(own, WEIGHT_DECAY)
    outside = no_larger(ratio * lr)
    if KIND == LAMB:
        if leads & (tl.load(row + ADVANCES) != 0):
            step = tl.load(row + STEP).to(tl.pointer_type(tl.float32))
            tl.store(step, tl.load(step) + 1.0)
        of_m = tl.load(estimates + 4 * layer)
        of_g = tl.load(estimates + 4 * layer + 1)
        of_v = tl.load(estimates + 4 * layer + 2)
        of_gg = tl.load(estimates + 4 * layer + 3)
        eps = fp32(own, EPS)
    else:
        momentum = fp32(own, BETA1)
        share = one_minus(own, BETA1)
    if KIND == SUM:
        together = tl.load(own + RATE_INSIDE) != 0.0
        inside = no_larger(tl.where(together, ratio * lr, ratio))
        outside = no_larger(tl.where(together, 1.0, lr))
    lanes = tl.arange(0, BLOCK)
    for aligned in tl.static_range(2):
        if tl.load(chunk + 3) == aligned:
            xs = elements(row, X, chunk, X_DTYPE, aligned, CHUNK)
            ps = elements(row, PARAMETER, chunk, PARAMETER_DTYPE, aligned, CHUNK)
            gs = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, aligned, CHUNK)
            ms = elements(row, FIRST_STATE, chunk, tl.float32, aligned, CHUNK)
            if KIND == LAMB:
                vs = elements(row, SECOND_STATE, chunk, tl.float32, aligned, CHUNK)
            count = number_of(chunk, aligned)
            for start in range(0, count, BLOCK):
                at = start + lanes
                there = at < count
                x = tl.load(xs + at, mask=there, other=0.0).to(tl.float32)
                m = tl.load(ms + at, mask=there, other=0.0)
                g = m
                if (KIND == SUM) | (NESTEROV > 0):
                    g = tl.load(gs + at, mask=there, other=0.0).to(tl.float32) * scale
                if KIND == LAMB:
                    v = tl.load(vs + at, mask=there, other=0.0)
                    u = lamb_update(x, g, m, v, of_m, of_g, of_v, of_gg, eps, weight_decay, NESTEROV)
                else:
                    d = g + weight_decay * x
                    if KIND == AVERAGE:
                        u = lars_average(d, m, momentum, share, NESTEROV)
                    else:
                        m = m * momentum + inside * d
                        tl.store(ms + at, m, mask=there)
                        u = m
                        if NESTEROV > 0:
                            u = inside * d + momentum * m
                x -= outside * u
                tl.store(xs + at, x.to(X_DTYPE), mask=there)
                if PARAMETER_DTYPE != X_DTYPE:
                    tl.store(ps + at, x.to(PARAMETER_DTYPE), mask=there)


@triton.jit
def look_at_gradients(
    chunks, layers, first, squares, sums, arrivals, limit, verdict, tensors,
    GRADIENT_DTYPE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sums: |g|^2 of every tensor; verdict: their total, without those that are not finite; how many those are; clip.

    Here `first` counts the chunks of tensors. The last program of a tensor adds up the tensor, the last of these
    everything: who is last is left to chance, what it adds and in which order is not.

    arrivals: int32, (tensors + 1,), zero before and after.
    """
    index = tl.program_id(0)
    chunk = chunks + index * CHUNK_COLUMNS
    row = layers + tl.load(chunk) * LAYER_COLUMNS
    lanes = tl.arange(0, BLOCK)
    for aligned in tl.static_range(2):
        if tl.load(chunk + 3) == aligned:
            gradient = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, aligned, CHUNK)
            count = number_of(chunk, aligned)
            of_g = tl.zeros((BLOCK,), tl.float64)
            for start in range(0, count, BLOCK):
                at = start + lanes
                of_g += square(tl.load(gradient + at, mask=at < count, other=0.0))
            tl.store(squares + index, tl.sum(of_g))
    tensor = tl.load(row + TENSOR)
    start = tl.load(first + tensor)
    end = tl.load(first + tensor + 1)
    tl.debug_barrier()
    if tl.atomic_add(arrivals + tensor, 1, sem="acq_rel", scope="gpu") == end - start - 1:
        tl.store(arrivals + tensor, 0)
        tl.store(sums + tensor, total(squares, start, end, BLOCK))
        tl.debug_barrier()
        if tl.atomic_add(arrivals + tensors, 1, sem="acq_rel", scope="gpu") == tensors - 1:
            tl.store(arrivals + tensors, 0)
            _judge(sums, limit, verdict, tensors, BLOCK)


@triton.jit
def _judge(sums, limit, verdict, tensors, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    good = tl.zeros((BLOCK,), tl.float64)
    bad = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, tensors, BLOCK):
        at = start + lanes
        each = tl.load(sums + at, mask=at < tensors, other=0.0, cache_modifier=".cg")
        finite = each < float("inf")
        good += tl.where(finite, each, 0.0)
        bad += tl.where(finite, 0.0, 1.0)
    norm = tl.sqrt(tl.sum(good))
    bound = tl.load(limit)
    tl.store(verdict, tl.sum(good))
    tl.store(verdict + 1, tl.sum(bad))
    tl.store(verdict + 2, bound / tl.where(norm > bound, norm, bound))


@triton.jit
def add_up_layers(first, squares, stride, totals, number, BLOCK: tl.constexpr):
    """totals: |x|^2 and |u|^2 of every layer, (2, layers): what ranks that share layers exchange between the phases."""
    layer = tl.program_id(0)
    start = tl.load(first + layer)
    end = tl.load(first + layer + 1)
    tl.store(totals + layer, total(squares, start, end, BLOCK))
    tl.store(totals + number + layer, total(squares + stride, start, end, BLOCK))
