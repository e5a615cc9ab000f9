"""Deterministic weights, and digests of gradients, for models of torchvision and of gpuprop.

`tests/oracle/torchvision_models.py` stores torchvision's results, and test_models.py compares them.
`RandomState` draws the same numbers in every version of NumPy.
"""

import zlib

import numpy as np

CASES = {  # name -> the shape of the images
    "resnet_basic": (3, 3, 48, 48),
    "resnet_bottleneck": (3, 3, 48, 48),
    "mobilenet_v2": (3, 3, 32, 32),
    "mobilenet_v3_large": (3, 3, 65, 65),
    "mobilenet_v3_small": (3, 3, 65, 65),
    "convnext": (2, 3, 32, 32),
    "vit": (2, 3, 24, 24),
    "vit_with_hidden_layer": (2, 3, 24, 24),
}
CLASSES = 5


def uniform(name, shape, low=-1.0, high=1.0):
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    return rng.uniform(low, high, shape)


def weights(shapes):
    """Values for the entries of a state dict; variances stay about the same from layer to layer."""
    values = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            values[name] = np.array(3)
        elif len(shape) > 1:
            values[name] = uniform(name, shape) * np.sqrt(3 / max(1, np.prod(shape[1:])))
        else:
            values[name] = uniform(name, shape, 0.5, 1.5)
    return values


def digest(name, value):
    """The norm of an array, and its product with a vector of random numbers."""
    value = np.asarray(value, "float64")
    return [float(np.sqrt((value**2).sum())), float((value * uniform(name, value.shape)).sum())]


def moments(value):
    """Mean, standard deviation and kurtosis of an array; the last is 0 if all are equal."""
    value = np.asarray(value, "float64")
    mean, std = value.mean(), value.std()
    kurtosis = ((value - mean)**4).mean() / std**4 if std > 0 else 0.0
    return [float(mean), float(std), float(kurtosis)]


def images(case):
    return uniform(case, CASES[case])


def labels(case):
    return np.arange(CASES[case][0])
