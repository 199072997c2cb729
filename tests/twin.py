"""One training step of the paper's nets in NumPy and float64, from the formulas: a reference for tests.

Arrays are (N, features) or (N, channels, H, W). Where rounding may decide (a sign at 0, the edge of the mask,
the largest of a window), the recorded choice of the step under test is adopted, but only if the float64 value lies
within `edge` of the boundary; any other difference is an AssertionError.
"""

import math
from dataclasses import dataclass, field

import numpy as np

EDGE = 2e-4
"""Error of a normalized value (its scale is 1). Channels last, torch's batch norm sums thousands of integers plus
a small bias in float32, and every addition rounds to the same side: 8e-5 was observed; else 1e-5 would do."""


@dataclass
class Layer:
    """A block's parameters in float64, and the arrays of the step under test in it (float64 copies)."""

    weight: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    """The moving average of 1/std, or of the std itself (batch norm of kind "std")."""
    norm: object
    """The spec of its batch norm."""
    pool: bool = False
    given: np.ndarray | None = None
    """Of the step under test: the layer's input, dropout included."""
    product: np.ndarray | None = None
    """Of the step under test: the layer's output, before pooling."""
    normed: np.ndarray | None = None
    """Of the step under test: the output of batch norm."""


@dataclass
class Found:
    """The result of the float64 step, and the number of choices that were adopted."""

    edge: float = EDGE
    """How far from a boundary a choice may be adopted."""
    loss: float = 0.0
    grads: list = field(default_factory=list)
    """For each layer: weight, bias, gamma, beta."""
    scales: list = field(default_factory=list)
    """As grads, but the sums of the terms' magnitudes, for gradients that are sums over a batch."""
    statistics: list = field(default_factory=list)
    """For each layer: the batch's mean and 1/std, or its std."""
    choices: int = 0


def ap2(x):
    """sign(x) · 2^round(log2 |x|), 0 for 0."""
    with np.errstate(divide="ignore"):
        return np.where(x == 0, 0.0, np.sign(x) * 2.0 ** np.round(np.log2(np.abs(x))))


def windows(x):
    """The 3×3 windows of x (N, C, H, W) padded with zeros: (N, C, H, W, 3, 3)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))


def apply(x, w):
    """Linear or convolutional map without bias."""
    if w.ndim == 2:
        return x @ w.T
    return np.tensordot(windows(x), w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def apply_back(x, w, grad):
    """Gradients of weights and of input."""
    if w.ndim == 2:
        return grad.T @ x, grad @ w
    grad_w = np.tensordot(grad, windows(x), ((0, 2, 3), (0, 2, 3)))
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return grad_w, apply(grad, turned)


def along(v, x):
    """A vector of features or channels in a shape that broadcasts with x."""
    return v.reshape(-1, *[1] * (x.ndim - 2))


def step(layers, x, targets, keep, activation, edge=EDGE):
    """Loss and gradients of one step on images x, ±1 targets; `keep`: the dropouts' keeping rates, input first.

    `activation`: sign, stochastic_sign or relu. Between signs the products of hidden layers are integers
    and must equal those of the step under test exactly.
    """
    found, saved, h = Found(edge), [], x
    last = len(layers) - 1
    kept = _kept(layers[0].given, keep[0])
    h = x * kept
    np.testing.assert_allclose(layers[0].given, h.reshape(layers[0].given.shape), rtol=1e-6, atol=1e-7)
    for k, layer in enumerate(layers):
        if layer.weight.ndim == 2:
            h = h.reshape(len(h), -1)
        wb = np.where(layer.weight >= 0, 1.0, -1.0)
        s = apply(h, wb)
        if k and activation != "relu":
            _same_integers(layer, s, keep[k])
        y = s + along(layer.bias, s)
        pooled, taken = _pool(layer, y, found) if layer.pool else (y, None)
        a, norm_saved = _norm(layer, pooled, found)
        np.testing.assert_allclose(layer.normed, a, rtol=edge, atol=edge)
        saved.append((h, wb, y.shape, taken, norm_saved, a))
        if k < last:
            h = np.maximum(a, 0) if activation == "relu" else _activate(layers, k, a, keep, activation, found)
    slack = np.maximum(1 - targets * a, 0)
    found.loss = float((slack**2).mean())
    grad = -2 * targets * slack / slack.size
    for k in range(last, -1, -1):
        h, wb, shape, taken, norm_saved, a = saved[k]
        if k < last:
            grad = grad.reshape(a.shape)
            if activation == "relu":
                grad = grad * _positive(layers[k], a, found)
            else:
                grad = grad * _inside(layers[k], a, found)
        over = (0, *range(2, grad.ndim))
        unsigned = np.abs(grad * norm_saved[0]).sum(over), np.abs(grad).sum(over)
        grad, grad_gamma, grad_beta = _norm_back(layers[k], grad, norm_saved)
        if taken is not None:
            grad = _pool_back(grad, taken, shape)
        grad_w, back = apply_back(h, wb, grad)
        found.grads.insert(0, (grad_w, grad.sum(over), grad_gamma, grad_beta))
        found.scales.insert(0, (grad_w, np.abs(grad).sum(over), *unsigned))
        if k:
            grad = back * _kept(layers[k].given, keep[k]).reshape(back.shape)
    return found


def _kept(given, keep):
    """1/keep where dropout kept a value in the step under test, else 0; the share must be plausible."""
    if keep == 1:
        return np.ones_like(given)
    through = given != 0
    assert abs(through.mean() - keep) < 5 * math.sqrt(keep * (1 - keep) / through.size)
    return through / keep


def _same_integers(layer, s, keep):
    """Checks that the product of the step under test, less its bias, is the integer `s`, within rounding."""
    bias = along(layer.bias, s)
    seen = (layer.product - bias) * keep
    np.testing.assert_array_equal(np.round(seen), np.round(s * keep))
    assert (np.abs(s * keep - np.round(s * keep)) < 1e-9).all()
    assert (np.abs(layer.product - bias - s) <= 4 * 2.0**-24 * (layer.weight[0].size / keep + np.abs(bias))).all()


def _pool(layer, y, found):
    """2×2 max pooling, with the first of equals in reading order, and the index of the chosen one."""
    four, seen = _fours(y), _fours(layer.product)
    taken, theirs = four.argmax(-1)[..., None], seen.argmax(-1)[..., None]
    best, other = (np.take_along_axis(four, which, -1) for which in (taken, theirs))
    assert (best - other <= found.edge).all()
    found.choices += int((taken != theirs).sum())
    return other[..., 0], theirs


def _fours(y):
    n, c, height, width = y.shape
    split = y.reshape(n, c, height // 2, 2, width // 2, 2).transpose(0, 1, 2, 4, 3, 5)
    return split.reshape(n, c, height // 2, width // 2, 4)


def _pool_back(grad, taken, shape):
    n, c, height, width = shape
    four = np.zeros((*grad.shape, 4))
    np.put_along_axis(four, taken, grad[..., None], -1)
    split = four.reshape(n, c, height // 2, width // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5)
    return split.reshape(shape)


def _norm(layer, x, found):
    over = (0, *range(2, x.ndim))
    mean = x.mean(over)
    centred = x - along(mean, x)
    if layer.norm.kind == "vanilla":
        inv_std = 1 / np.sqrt((centred**2).mean(over) + layer.norm.eps)
        scale = layer.gamma * inv_std
        saved = centred * along(inv_std, x), inv_std, 1
    elif layer.norm.kind == "std":
        std = np.sqrt((centred**2).mean(over))
        inv_std = 1 / (std + layer.norm.eps)
        scale = layer.gamma * inv_std
        saved = centred * along(inv_std, x), inv_std, (std + layer.norm.eps) / std
    else:
        around = ap2(centred)
        inv_std = 1 / np.sqrt((centred * around).mean(over) + layer.norm.eps)
        scale = ap2(layer.gamma) * ap2(inv_std)
        saved = around * along(ap2(inv_std), x), ap2(inv_std), 1
    found.statistics.append((mean, std if layer.norm.kind == "std" else inv_std))
    return centred * along(scale, x) + along(layer.beta, x), saved


def _norm_back(layer, grad, saved):
    """The exact gradient of vanilla BN; for shift-based BN the same formula with AP2 of C, 1/std and gamma.

    With eps added to the std, d std / dx = (x - mean) / (n · std) has the std without eps below it: `excess`.
    """
    hat, inv_std, excess = saved
    over = (0, *range(2, grad.ndim))
    gamma = ap2(layer.gamma) if layer.norm.kind == "shift" else layer.gamma
    grad_gamma, grad_beta = (grad * hat).sum(over), grad.sum(over)
    count = grad.size // len(gamma)
    centred = grad - along(grad_beta / count, grad) - hat * along(excess * grad_gamma / count, grad)
    return centred * along(gamma * inv_std, grad), grad_gamma, grad_beta


def _activate(layers, k, a, keep, activation, found):
    """The sign of pre-activations a, times the dropout in the next layer's input."""
    seen = layers[k + 1].given.reshape(a.shape)
    kept = _kept(seen, keep[k + 1])
    np.testing.assert_array_equal(np.abs(seen), kept)
    if activation == "stochastic_sign":  # only values that the noise cannot change are known
        sure = np.abs(a) > 1 + found.edge
        assert (np.sign(seen)[sure & (seen != 0)] == np.sign(a)[sure & (seen != 0)]).all()
        return seen
    signs = np.where(a >= 0, 1.0, -1.0)
    differ = (seen != 0) & (np.sign(seen) != signs)
    assert (np.abs(a[differ]) <= found.edge).all(), np.abs(a[differ]).max()
    found.choices += int(differ.sum())
    return np.where(differ, -signs, signs) * kept


def _inside(layer, a, found):
    """Where |a| <= 1."""
    mine, theirs = np.abs(a) <= 1, np.abs(layer.normed) <= 1
    differ = mine != theirs
    assert (np.abs(np.abs(a[differ]) - 1) <= found.edge).all()
    found.choices += int(differ.sum())
    return theirs


def _positive(layer, a, found):
    """Where a > 0."""
    mine, theirs = a > 0, layer.normed > 0
    differ = mine != theirs
    assert (np.abs(a[differ]) <= found.edge).all()
    found.choices += int(differ.sum())
    return theirs


# --- update rules ---------------------------------------------------------------------------------------------


def adam(rule, state, grad, t, rate, eps_before_correction=True):
    """The update of one parameter at step t (from 1); `state`: its m and v, changed in place."""
    m, v = state
    m += (1 - rule.beta1) * (grad - m)
    v += (1 - rule.beta2) * (grad**2 - v)
    rise, scale = 1 - rule.beta1**t, math.sqrt(1 - rule.beta2**t)
    if eps_before_correction:  # Lasagne
        return -rate * scale / rise * m / (np.sqrt(v) + rule.eps)
    return -rate / rise * m / (np.sqrt(v) / scale + rule.eps)


def shift_adamax(rule, state, grad, t, rate, multiplier):
    """The update of one parameter by shift-based AdaMax at step t (from 1); `state` as in `adam`."""
    m, v = state
    m += (1 - rule.beta1) * (grad - m)
    v[...] = ap2(np.maximum(rule.beta2 * v, np.abs(grad))) + rule.eps
    return -(2.0 ** round(math.log2(rate / (1 - rule.beta1**t)))) * multiplier * m / v


def sgd(grad, rate):
    """The update of one parameter by plain SGD."""
    return -rate * grad


def multipliers(layer, train):
    """Factors of the rate for weight, bias, gamma and beta of a layer."""
    w = layer.weight
    glorot = math.sqrt((w[0].size + len(w) * w[0, 0].size) / 1.5) if w.ndim == 4 else math.sqrt(sum(w.shape) / 1.5)
    power = 2.0 ** round(math.log2(glorot))
    kinds = {"plain": 1.0, "glorot": glorot, "glorot_squared": glorot**2, "glorot_power_of_2": power}
    weight = kinds[train.weight_rate]
    gamma = math.sqrt(len(w) / 1.5) if train.norm_rate == "glorot_gamma" else 1.0
    return weight, weight if train.bias_rate == "as_weight" else 1.0, gamma, 1.0
