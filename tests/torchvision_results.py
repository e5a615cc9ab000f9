"""What torchvision's models compute, and the models of gpuprop that must compute the same.

tests/oracle/torchvision_models.py wrote torchvision's results.
"""

import gzip
import json
from functools import partial
from pathlib import Path

from model_values import CLASSES

from gpuprop import models

FILE = Path(__file__).with_name("torchvision_models.json.gz")
THEIRS = json.loads(gzip.decompress(FILE.read_bytes()))

VIT = partial(models.VisionTransformer, 24, 8, 2, 2, 16, 32, num_classes=CLASSES)
MAKE = {
    "resnet_basic": lambda: models.ResNet(models.BasicBlock, [1, 2, 1, 1], CLASSES),
    "resnet_bottleneck": lambda: models.ResNet(
        models.Bottleneck, [1, 1, 1, 1], CLASSES, zero_init_residual=True, groups=2,
        width_per_group=8),
    "mobilenet_v2": lambda: models.mobilenet_v2(
        CLASSES, width_mult=0.3, dropout=0.0,
        inverted_residual_setting=[(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2)]),
    "mobilenet_v3_large": lambda: models.mobilenet_v3_large(CLASSES, width_mult=0.25, dropout=0.0),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(CLASSES, width_mult=0.25, dropout=0.0),
    "convnext": lambda: models.ConvNeXt([1, 2], [8, 16], CLASSES, layer_scale=0.5),
    "vit": VIT,
    "vit_with_hidden_layer": lambda: VIT(representation_size=7),
}


def shapes(model):
    return {name: list(value.shape) for name, value in model.state_dict().items()}
