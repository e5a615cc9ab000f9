"""The rules of optimizers in plain NumPy, one array at a time, written from the papers.

Each function returns the new values of p, given the gradient g, a dict of states, the number t of
the step and the options.  RULES has the options with which a rule is tested.
"""

import numpy as np


def sgd(p, g, s, t, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    g = g + weight_decay * p
    if not momentum:
        return p - lr * g
    s["v"] = g if t == 1 else momentum * s["v"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["v"] if nesterov else s["v"])


def moments(g, s, betas):
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g * g
    return s["m"], s["v"]


def adam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False,
         decoupled=False):
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    m, v = moments(g, s, betas)
    s["v_max"] = np.maximum(s.get("v_max", 0), v)
    v = s["v_max"] if amsgrad else v
    return p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def adamw(p, g, s, t, **options):
    return adam(p, g, s, t, **{"weight_decay": 0.01, **options}, decoupled=True)


def rmsprop(p, g, s, t, lr, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    g = g + weight_decay * p
    s["s"] = alpha * s.get("s", 0) + (1 - alpha) * g * g
    s["mean"] = alpha * s.get("mean", 0) + (1 - alpha) * g
    step = g / (np.sqrt(s["s"] - centered * s["mean"] ** 2) + eps)
    s["v"] = momentum * s.get("v", 0) + step
    return p - lr * (s["v"] if momentum else step)


def adadelta(p, g, s, t, lr, rho=0.9, eps=1e-6, weight_decay=0):
    g = g + weight_decay * p
    s["g"] = rho * s.get("g", 0) + (1 - rho) * g * g
    delta = np.sqrt(s.get("d", 0) + eps) / np.sqrt(s["g"] + eps) * g
    s["d"] = rho * s.get("d", 0) + (1 - rho) * delta * delta
    return p - lr * delta


def adagrad(p, g, s, t, lr, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10):
    g = g + weight_decay * p
    s["sum"] = s.get("sum", initial_accumulator_value) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + eps)


def adamax(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
    g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["u"] = np.maximum(betas[1] * s.get("u", 0), abs(g) + eps)
    return p - lr / (1 - betas[0] ** t) * s["m"] / s["u"]


def nadam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3,
          decoupled_weight_decay=False):
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    m, v = moments(g, s, betas)
    mu, mu_next = (betas[0] * (1 - 0.96 ** (n * momentum_decay) / 2) for n in (t, t + 1))
    s["mu"] = s.get("mu", 1) * mu
    direction = (1 - mu) / (1 - s["mu"]) * g + mu_next / (1 - s["mu"] * mu_next) * m
    return p - lr * direction / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def radam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0,
          decoupled_weight_decay=False):
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    m, v = moments(g, s, betas)
    correction = 1 - betas[1] ** t
    end = 2 / (1 - betas[1]) - 1
    length = end - 2 * t * betas[1] ** t / correction
    step = lr * m / (1 - betas[0] ** t)
    if length <= 5:
        return p - step
    r = np.sqrt((length - 4) * (length - 2) * end / ((end - 4) * (end - 2) * length))
    return p - step * r * np.sqrt(correction) / (np.sqrt(v) + eps)


def rprop(p, g, s, t, lr, etas=(0.5, 1.2), step_sizes=(1e-6, 50)):
    product = g * s.get("g", 0)
    factor = np.where(product > 0, etas[1], np.where(product < 0, etas[0], 1))
    s["size"] = np.clip(s.get("size", lr) * factor, *step_sizes)
    s["g"] = np.where(product < 0, 0, g)
    return p - np.sign(s["g"]) * s["size"]


def asgd(p, g, s, t, lr, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0):
    g = g + weight_decay * p
    eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
    p = p - eta * (g + lambd * p)
    s["average"] = s.get("average", 0) + (p - s.get("average", 0)) / max(1, t - 1 - t0)
    return p


def rms(a):
    return np.sqrt(np.mean(a * a)) if a.size else 0.0


def adafactor(p, g, s, t, lr, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0):
    eps1 = np.finfo(p.dtype).eps if eps[0] is None else eps[0]
    alpha = max(eps[1], rms(p)) * min(lr, 1 / np.sqrt(t))
    p = p - lr * weight_decay * p
    if not p.size:
        return p
    means = [(g * g).mean(axis, keepdims=True) for axis in (-1, -2)] if g.ndim > 1 else [g * g]
    for i, mean in enumerate(means):
        s[i] = s.get(i, 0) + t**beta2_decay * (mean - s.get(i, 0))
    v = s[0] * s[1] / max(s[0].mean(), eps1) if g.ndim > 1 else s[0]
    u = g / np.maximum(np.sqrt(v), eps1)
    return p - alpha * u / max(1, rms(u) / d)


def sparse_adam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8):
    rows = g != 0 if g.ndim < 2 else (g != 0).any(axis=tuple(range(1, g.ndim)), keepdims=True)
    before = dict(s)
    moments(g, s, betas)
    s["m"], s["v"] = (np.where(rows, s[k], before.get(k, 0)) for k in "mv")
    step = lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    return np.where(rows, p - step * s["m"] / (np.sqrt(s["v"]) + eps), p)


def lion(p, g, s, t, lr, betas=(0.9, 0.99), weight_decay=0):
    """Chen et al. 2023, algorithm 2."""
    m = s.get("m", 0)
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return p - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * p)


def lamb(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0):
    """You et al. 2020, algorithm 2, with phi the identity."""
    m, v = moments(g, s, betas)
    r = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    u = r + weight_decay * p
    norms = np.linalg.norm(p), np.linalg.norm(u)
    return p - lr * (norms[0] / norms[1] if all(norms) else 1) * u


def schedule_free(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, warmup_steps=1,
                  r=0, weight_lr_power=2):
    """Defazio et al. 2024, algorithm 1; r and weight_lr_power generalize the weights lr^2."""
    x, z = s.get("x", p), s.get("z", p)
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g * g
    lr = lr * np.sqrt(1 - betas[1] ** t) * min(1, t / warmup_steps)
    s["z"] = z - lr * g / (np.sqrt(s["v"]) + eps) - lr * weight_decay * p
    s["lr"] = max(lr, s.get("lr", 0))
    weight = t**r * s["lr"] ** weight_lr_power
    s["sum"] = s.get("sum", 0) + weight
    s["x"] = x + weight / s["sum"] * (s["z"] - x)
    return (1 - betas[0]) * s["z"] + betas[0] * s["x"]


def muon(p, g, s, t, lr, weight_decay=0.1, momentum=0.95, nesterov=True,
         ns_coefficients=(3.4445, -4.775, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None):
    """Jordan et al. 2024, by the polynomial's action on the singular values."""
    s["b"] = momentum * s.get("b", 0) + (1 - momentum) * g
    b = momentum * s["b"] + (1 - momentum) * g if nesterov else s["b"]
    u, sigma, vt = np.linalg.svd(b, full_matrices=False)
    sigma = sigma / max(np.sqrt((sigma**2).sum()), eps)
    for _ in range(ns_steps):
        sigma = sum(c * sigma**k for c, k in zip(ns_coefficients, (1, 3, 5), strict=True))
    ratio = np.sqrt(max(1, p.shape[0] / p.shape[1]))
    if adjust_lr_fn == "match_rms_adamw":
        ratio = 0.2 * np.sqrt(max(p.shape))
    return p - lr * weight_decay * p - lr * ratio * (u * sigma) @ vt


RULES = {
    "SGD": (sgd, [{}, {"weight_decay": 0.1}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True},
                  {"momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}]),
    "Adam": (adam, [{}, {"weight_decay": 0.1}, {"amsgrad": True, "betas": (0.5, 0.6)},
                    {"betas": (0.0, 0.9), "eps": 0.1}]),
    "AdamW": (adamw, [{}, {"weight_decay": 0.3, "amsgrad": True}, {"weight_decay": 0}]),
    "RMSprop": (rmsprop, [{}, {"alpha": 0.5, "momentum": 0.9},
                          {"centered": True, "weight_decay": 0.1},
                          {"centered": True, "momentum": 0.3}]),
    "Adadelta": (adadelta, [{}, {"rho": 0.5, "weight_decay": 0.1, "eps": 1e-3}]),
    "Adagrad": (adagrad, [{}, {"lr_decay": 0.1, "weight_decay": 0.1},
                          {"initial_accumulator_value": 0.5, "eps": 0.1}]),
    "Adamax": (adamax, [{}, {"betas": (0.5, 0.6), "weight_decay": 0.1, "eps": 0.01}]),
    "NAdam": (nadam, [{}, {"weight_decay": 0.1, "betas": (0.5, 0.9)},
                      {"weight_decay": 0.1, "decoupled_weight_decay": True,
                       "momentum_decay": 0.1}]),
    "RAdam": (radam, [{}, {"weight_decay": 0.1, "betas": (0.5, 0.9)},
                      {"weight_decay": 0.1, "decoupled_weight_decay": True}]),
    "Rprop": (rprop, [{}, {"etas": (0.3, 1.5), "step_sizes": (0.05, 0.12)}]),
    "ASGD": (asgd, [{}, {"lambd": 0.1, "alpha": 0.5, "t0": 1, "weight_decay": 0.1}]),
    "Adafactor": (adafactor, [{}, {"beta2_decay": -0.5, "eps": (0.1, 0.5), "d": 1.5,
                                   "weight_decay": 0.1}]),
    "SparseAdam": (sparse_adam, [{}, {"betas": (0.5, 0.9), "eps": 0.1}]),
    "Lion": (lion, [{}, {"betas": (0.5, 0.9), "weight_decay": 0.1}]),
    "LAMB": (lamb, [{}, {"betas": (0.5, 0.9), "weight_decay": 0.1, "eps": 0.1}]),
    "AdamWScheduleFree": (schedule_free, [
        {}, {"warmup_steps": 4, "weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 0.1},
        {"r": 1.5, "weight_lr_power": 1, "warmup_steps": 3}]),
    "Muon": (muon, [{}, {"nesterov": False, "momentum": 0.5, "ns_steps": 3},
                    {"ns_coefficients": (2, -1.5, 0.5), "adjust_lr_fn": "match_rms_adamw",
                     "weight_decay": 0.3}]),
}
CASES = [(name, options) for name, (_, cases) in RULES.items() for options in cases]
