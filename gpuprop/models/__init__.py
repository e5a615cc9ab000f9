"""Models to start from, each in one file to be read, changed and trained.

The entries of a model's `state_dict` have the names and shapes of the models that others publish
(torchvision, Hugging Face's GPT-2, milesial's U-Net), so that their weights load::

    model = gpuprop.models.resnet18()
    model.load_state_dict(gpuprop.load("resnet18.safetensors"))

`gpuprop.torch.load` reads weights that PyTorch saved (`.pth`).

>>> import gpuprop
>>> model = gpuprop.models.resnet18(num_classes=10).eval()
>>> model(gpuprop.ones(1, 3, 32, 32)).shape
(1, 10)
"""

from gpuprop.models._convnext import (
    ConvNeXt,
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
)
from gpuprop.models._gpt import GPT, gpt2, gpt2_large, gpt2_medium, gpt2_xl
from gpuprop.models._mobilenet import (
    MobileNetV2,
    MobileNetV3,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from gpuprop.models._resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from gpuprop.models._seq2seq import Seq2SeqTransformer
from gpuprop.models._tagger import LSTMTagger
from gpuprop.models._unet import UNet
from gpuprop.models._vision_transformer import (
    VisionTransformer,
    interpolate_embeddings,
    vit_b_16,
    vit_b_32,
    vit_h_14,
    vit_l_16,
    vit_l_32,
)

__all__ = [
    "GPT", "BasicBlock", "Bottleneck", "ConvNeXt", "LSTMTagger", "MobileNetV2", "MobileNetV3",
    "ResNet", "Seq2SeqTransformer", "UNet", "VisionTransformer", "convnext_base", "convnext_large",
    "convnext_small", "convnext_tiny", "gpt2", "gpt2_large", "gpt2_medium", "gpt2_xl",
    "interpolate_embeddings", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16",
    "vit_l_32", "wide_resnet50_2", "wide_resnet101_2",
]
