"""The paper in float64 NumPy, one layer at a time, as it is printed; shares no code with src.

Every function takes a layer x and its gradients of steps 1, 2, ..., and returns x after the last of them.
"""

import numpy as np

INF = float("inf")


def size(z, norm):
    z = np.abs(z.ravel())
    if z.size == 0:
        return 0.0
    return {"l2": np.sqrt(np.sum(z * z)), "l1": np.sum(z), "linf": np.max(z)}[norm]


def trust(x_norm, u_norm, *, phi, trust_clip, coefficient=1.0, eps=0.0):
    if x_norm == 0 or u_norm == 0:
        return 1.0
    ratio = coefficient * min(max(x_norm, phi[0]), phi[1]) / (u_norm + eps)
    return min(max(ratio, trust_clip[0]), trust_clip[1])


def clipped(layers, max_norm):
    """`layers`: the gradients of one step."""
    norm = np.sqrt(sum(np.sum(g * g) for g in layers))
    return [g * (min(1.0, max_norm / norm) if norm else 1.0) for g in layers]


def lamb(
    x, gradients, rates, *, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, bias_correction=True, nesterov=None,
    norm="l2", phi=(0.0, INF), trust_clip=(0.0, INF), adapt=True, maximize=False,
):  # fmt: skip
    """Algorithm 2; nesterov "m" is N-LAMB, "mv" NN-LAMB."""
    b1, b2 = betas
    m = v = np.zeros_like(x)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = -g if maximize else g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        if nesterov == "mv":
            v_hat = b2 * v / (1 - b2 ** (t + 1)) + (1 - b2) * g**2 / (1 - b2**t)
        if not bias_correction:
            m_hat = b1 * m + (1 - b1) * g if nesterov else m
            v_hat = b2 * v + (1 - b2) * g**2 if nesterov == "mv" else v
        u = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * x
        ratio = trust(size(x, norm), size(u, norm), phi=phi, trust_clip=trust_clip) if adapt else 1.0
        x = x - lr * ratio * u
    return x


def lars(
    x, gradients, rates, *, momentum=0.9, weight_decay=0.0, form="lamb-paper", trust_coefficient=1.0, joint_norm=False,
    eps=0.0, nesterov=False, norm="l2", phi=(0.0, INF), trust_clip=(0.0, INF), adapt=True, maximize=False,
):  # fmt: skip
    """Algorithm 1; the form of 2017 with the rate in the buffer; timm's with the rate outside."""
    mu, buf = momentum, np.zeros_like(x)
    for g, lr in zip(gradients, rates, strict=True):
        g = -g if maximize else g
        d = g + weight_decay * x
        if form == "lamb-paper":
            buf = mu * buf + (1 - mu) * d
            u = mu * buf + (1 - mu) * d if nesterov else buf
            u_norm = size(u, norm)
        else:
            u_norm = size(d, norm) if joint_norm else size(g, norm) and size(g, norm) + weight_decay * size(x, norm)
        bounds = {"phi": phi, "trust_clip": trust_clip}
        q = trust(size(x, norm), u_norm, coefficient=trust_coefficient, eps=eps, **bounds) if adapt else 1.0
        if form == "lamb-paper":
            x = x - lr * q * u
        elif form == "lars-2017":
            buf = mu * buf + lr * q * d
            x = x - (mu * buf + lr * q * d if nesterov else buf)
        else:
            buf = mu * buf + q * d
            x = x - lr * (mu * buf + q * d if nesterov else buf)
    return x
