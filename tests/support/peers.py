"""Other implementations as they are installed, and transcriptions of those that need a GPU or another framework."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest


def timm(module):
    """timm as a whole needs torchvision; its optimizers do not."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        pytest.skip("timm is not installed")
    package = types.ModuleType("timm_optim")
    package.__path__ = [str(Path(found.origin).parent / "optim")]
    sys.modules["timm_optim"] = package
    return importlib.import_module(f"timm_optim.{module}")


def optax_after(make, xs, gradients, rates):
    """What `make(optax, rate)` makes of the arrays xs."""
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    with jax.enable_x64(True):
        rule = make(optax, lambda t: jax.numpy.asarray(rates)[t])
        xs = [jax.numpy.asarray(x) for x in xs]
        state = rule.init(xs)
        for step in gradients:
            updates, state = rule.update([jax.numpy.asarray(g) for g in step], state, xs)
            xs = optax.apply_updates(xs, updates)
        return [np.asarray(x) for x in xs]


def apex(xs, gradients, rates, decays, *, restart=None, b1=0.9, b2=0.999, eps=1e-6, max_grad_norm=1.0):
    """FusedLAMB and its kernel, stage by stage; `restart` is the step before which BERT's phase 2 zeroes the count.

    grad_averaging and adam_w_mode are on, use_nvlamb is off: the defaults.
    """
    xs = [x.copy() for x in xs]
    ms, vs = [0 * x for x in xs], [0 * x for x in xs]
    count = 0
    for i, (step, lr) in enumerate(zip(gradients, rates, strict=True)):
        count = 1 if i == restart else count + 1
        global_norm = np.sqrt(sum((g * g).sum() for g in step))
        shrink = global_norm / max_grad_norm if global_norm > max_grad_norm else 1.0
        for k, (g, decay) in enumerate(zip(step, decays, strict=True)):
            scaled = g / shrink
            ms[k] = ms[k] * b1 + (1 - b1) * scaled
            vs[k] = vs[k] * b2 + (1 - b2) * scaled * scaled
            update = (ms[k] / (1 - b1**count)) / (np.sqrt(vs[k] / (1 - b2**count)) + eps) + decay * xs[k]
            rate = lr
            if decay != 0:
                x_norm, u_norm = np.sqrt((xs[k] ** 2).sum()), np.sqrt((update**2).sum())
                rate = lr * (x_norm / u_norm) if u_norm != 0 and x_norm != 0 else lr
            xs[k] = xs[k] - rate * update
    return xs


def resnet_author(xs, gradients, rates, is_batch_norm, *, decay=1.5, b1=0.9, b2=0.999, eps=1e-6):
    """create_optimizer and LAMBOptimizer of imagenet_resnet50_lamb on one device."""
    state = [(x, 0 * x, 0 * x) for x in xs]
    for step, lr in zip(gradients, rates, strict=True):
        global_norm = np.sqrt(sum((g * g).sum() for g in step))
        following = []
        for (x, m, v), g, exempt in zip(state, step, is_batch_norm, strict=True):
            clipped = g * 1.0 / max(global_norm, 1.0)
            m, v = b1 * m + (1 - b1) * clipped, b2 * v + (1 - b2) * clipped**2
            update, ratio = m / (np.sqrt(v) + eps), 1.0
            if not exempt:
                update = update + decay * x
                w_norm, g_norm = np.linalg.norm(x.ravel()), np.linalg.norm(update.ravel())
                ratio = w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
            following.append((x - ratio * lr * update, m, v))
        state = following
    return [x for x, _, _ in state]


def lars_2017(xs, gradients, rates, decays, *, momentum=0.9, eta=0.001, nesterov=False):
    """NVCaffe's GetLocalRate with TensorFlow's ResourceApplyMomentum at lr = 1, to which both bring lr * rate * d."""
    state = [(x, 0 * x) for x in xs]
    for step, lr in zip(gradients, rates, strict=True):
        following = []
        for (x, accumulator), g, decay in zip(state, step, decays, strict=True):
            w_norm, g_norm = np.linalg.norm(x.ravel()), np.linalg.norm(g.ravel())
            local = eta * w_norm / (g_norm + decay * w_norm) if w_norm > 0 and g_norm > 0 else 1.0
            grad = (g + decay * x) * local * lr
            accumulator = momentum * accumulator + grad
            following.append((x - (grad + momentum * accumulator if nesterov else accumulator), accumulator))
        state = following
    return [x for x, _ in state]
