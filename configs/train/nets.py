"""The digits data, and what a small net needs to be trained in plain NumPy."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def digits():
    """Returns train images, test images, train classes, test classes.

    Images are [N, 64] float32 with pixels from 0 to 16.
    """
    x, y = load_digits(return_X_y=True)
    return train_test_split(
        x.astype(np.float32), y, test_size=0.2, stratify=y, random_state=0
    )


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def train(weights, gradients, x, y, epochs, rate=3e-3, batch=64, seed=0):
    """Fits weights (a dict of arrays, changed in place) by Adam.

    gradients(weights, x, y) returns the gradient of the mean loss by name. The
    rate falls to zero over the epochs (half a cosine).
    """
    random = np.random.default_rng(seed)
    mean = {n: np.zeros_like(w) for n, w in weights.items()}
    square = {n: np.zeros_like(w) for n, w in weights.items()}
    step, steps = 0, epochs * -(-len(x) // batch)
    for _ in range(epochs):
        order = random.permutation(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            step += 1
            now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            for n, g in gradients(weights, x[rows], y[rows]).items():
                mean[n] += 0.1 * (g - mean[n])
                square[n] += 0.001 * (g * g - square[n])
                m = mean[n] / (1 - 0.9**step)
                s = square[n] / (1 - 0.999**step)
                weights[n] -= (now * m / (np.sqrt(s) + 1e-8)).astype(weights[n].dtype)


def normal(random, *shape, fan_in):
    """Returns He-initialised float32 weights."""
    return (random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def require(name, value, at_least):
    """Stops the training script when the model is not good enough to ship."""
    print(f"{name}: {value:.4f} on held-out data (needs {at_least})")
    if value < at_least:
        raise SystemExit(f"{name} is below {at_least}")
