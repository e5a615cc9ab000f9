"""Writes tests/torchvision_models.json.gz, what torchvision's models compute, for test_models.py.

    pip install torch torchvision        (torchvision 0.28.0 with torch 2.13.0 wrote the file)
    python tests/oracle/torchvision_models.py

"state": for each constructor, the names and shapes of the entries of its state dict.
"initial": for small models, the moments of each parameter after initialization.
"results": for small models in float64 with `model_values.weights`, the output in eval mode and in
training, digests of the gradients of the mean cross-entropy in training, and of the buffers after.
"positions": interpolated embeddings of the positions of a ViT.
"""

import gzip
import inspect
import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision import models
from torchvision.models import convnext, mobilenetv2, mobilenetv3, resnet, vision_transformer

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
from model_values import CASES, CLASSES, digest, images, labels, moments, uniform, weights  # noqa: E402

CONSTRUCTORS = [name for module in (resnet, mobilenetv2, mobilenetv3, convnext, vision_transformer)
                for name in module.__all__ if inspect.isfunction(getattr(models, name))]


def mobilenet_v3(name):
    width = {"width_mult": 0.25}
    setting, last = mobilenetv3._mobilenet_v3_conf(name, **width)
    return models.MobileNetV3(setting, last, CLASSES, dropout=0.0)


Stage = convnext.CNBlockConfig
VIT = partial(models.VisionTransformer, 24, 8, 2, 2, 16, 32, num_classes=CLASSES)
MAKE = {
    "resnet_basic": lambda: models.ResNet(resnet.BasicBlock, [1, 2, 1, 1], CLASSES),
    "resnet_bottleneck": lambda: models.ResNet(
        resnet.Bottleneck, [1, 1, 1, 1], CLASSES, zero_init_residual=True, groups=2,
        width_per_group=8),
    "mobilenet_v2": lambda: models.MobileNetV2(
        CLASSES, 0.3, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]], dropout=0.0),
    "mobilenet_v3_large": lambda: mobilenet_v3("mobilenet_v3_large"),
    "mobilenet_v3_small": lambda: mobilenet_v3("mobilenet_v3_small"),
    "convnext": lambda: models.ConvNeXt([Stage(8, 16, 1), Stage(16, None, 2)], 0.0, 0.5, CLASSES),
    "vit": VIT,
    "vit_with_hidden_layer": lambda: VIT(representation_size=7),
}


def shapes(model):
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def results(case):
    model = MAKE[case]().double()
    values = weights(shapes(model))
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    x = torch.tensor(images(case))
    with torch.no_grad():
        evaluated = model.eval()(x)
    trained = model.train()(x)
    F.cross_entropy(trained, torch.tensor(labels(case))).backward()
    return {
        "eval": evaluated.tolist(), "train": trained.tolist(),
        "gradients": {name: digest(name, p.grad) for name, p in model.named_parameters()},
        "buffers": {name: digest(name, b) for name, b in model.named_buffers()}}


def main():
    torch.manual_seed(0)
    found = {"state": {}, "initial": {}, "results": {}}
    for name in CONSTRUCTORS:
        with torch.device("meta"):
            found["state"][name] = shapes(getattr(models, name)())
    for case in CASES:
        parameters = MAKE[case]().named_parameters()
        found["initial"][case] = {name: moments(p.detach()) for name, p in parameters}
        found["results"][case] = results(case)
    state = {"encoder.pos_embedding": torch.tensor(uniform("positions", (1, 17, 3)))}
    resized = models.vision_transformer.interpolate_embeddings(56, 8, state)
    found["positions"] = resized["encoder.pos_embedding"].tolist()
    text = json.dumps(found, separators=(",", ":")).encode()
    (TESTS / "torchvision_models.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main()
