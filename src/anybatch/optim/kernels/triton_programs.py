"""What the Triton programs of LAMB and LARS share: each works on one chunk of one layer.

Tables on the device say what a program works on; `triton.py` writes them.

    chunks    int32, a row a program     layer; index of the chunk in it; elements; 1 where vector loads are allowed
    layers    int64, a row a layer       the columns named below, of which the first seven are addresses
    settings  float64, a row a group     the columns named below
    first     int32, (layers + 1,)       the first chunk of every layer: its chunks follow each other

x is what a step moves: the parameter, or the fp32 master that the parameter is rounded from. Elements are computed in
fp32 with IEEE division and roots; squares are summed in float64, always in the same order.
"""

import triton
import triton.language as tl

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

SETTING_COLUMNS = tl.constexpr(18)
LR = tl.constexpr(0)
DECAY_1 = tl.constexpr(1)  # beta1, or the momentum
DECAY_2 = tl.constexpr(2)
LOG_DECAY_1 = tl.constexpr(3)
LOG_DECAY_2 = tl.constexpr(4)
EPS = tl.constexpr(5)  # beside sqrt(v_hat)
WEIGHT_DECAY = tl.constexpr(6)
SIGN = tl.constexpr(7)
PHI = tl.constexpr(8)  # two columns
TRUST_CLIP = tl.constexpr(10)  # two columns
ADAPT = tl.constexpr(12)
CORRECTS = tl.constexpr(13)  # bias correction
COEFFICIENT = tl.constexpr(14)
RATIO_EPS = tl.constexpr(15)
IN_DIRECTION = tl.constexpr(16)  # LARS with the rate in or beside the buffer: |u| = |g + this * x| ...
IN_NORM = tl.constexpr(17)  # ... + this * |x|

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
def within(value, bounds):
    """(clamped, whether it had to be); NaN stays NaN, which a minimum would swallow."""
    low = tl.load(bounds)
    high = tl.load(bounds + 1)
    return tl.where(value < low, low, tl.where(value > high, high, value)), (value < low) | (value > high)


@triton.jit
def no_larger(rate):
    """In fp32. A vanishing update can have a ratio that fp32 does not hold; infinity times that update is no step."""
    return tl.where(rate > LARGEST, LARGEST, rate).to(tl.float32)


@triton.jit
def trust(layer, own, squares, stride, first, record, number, records, LANES):
    """The ratio of a layer, from the squares of its chunks; where `records`, a column: |x|, |u|, ratio, clamped."""
    start = tl.load(first + layer)
    end = tl.load(first + layer + 1)
    weight = tl.sqrt(total(squares, start, end, LANES))
    update = tl.sqrt(total(squares + stride, start, end, LANES))
    ratio = tl.full((), 1.0, tl.float64)
    clamped = tl.full((), 0.0, tl.float64)
    if tl.load(own + ADAPT) != 0.0:
        update = tl.where(update == 0.0, 0.0, update + tl.load(own + IN_NORM) * weight)
        still = (weight == 0.0) | (update == 0.0)
        size, outside_phi = within(weight, own + PHI)
        raw = tl.load(own + COEFFICIENT) * size / tl.where(still, 1.0, update + tl.load(own + RATIO_EPS))
        kept, outside_clip = within(raw, own + TRUST_CLIP)
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
    if tl.load(chunk + 3) != 0:
        _look(row, chunk, squares + index, GRADIENT_DTYPE, True, CHUNK, BLOCK)
    else:
        _look(row, chunk, squares + index, GRADIENT_DTYPE, False, CHUNK, BLOCK)
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
def _look(row, chunk, squares, GRADIENT_DTYPE, ALIGNED, CHUNK, BLOCK: tl.constexpr):
    gradient = elements(row, GRADIENT, chunk, GRADIENT_DTYPE, ALIGNED, CHUNK)
    count = number_of(chunk, ALIGNED)
    lanes = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + lanes
        sums += square(tl.load(gradient + at, mask=at < count, other=0.0))
    tl.store(squares, tl.sum(sums))


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
