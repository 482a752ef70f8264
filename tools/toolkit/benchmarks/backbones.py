"""The backbones that are measured: how they are built and run, and what they are."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from setformer_mm.models import SeTformer

from ..timing import Call
from .measuring import use_backend

BASELINE = "swin_tiny_patch4_window7_224"
QUICK_MODELS = (BASELINE, "convnext_tiny", "davit_tiny")
MODELS = (
    *QUICK_MODELS,
    "focalnet_tiny_lrf",
    "caformer_s18",
    "mambaout_tiny",
    "hiera_tiny_224",
    "pvt_v2_b2",
    "resnet50",
)
NUM_CLASSES = 1000


@dataclass(frozen=True)
class Setting:
    """What a model is measured at.

    Attributes:
        dense: Whether it gives a feature pyramid, not scores of classes.
        bf16: Whether it runs under autocast to bfloat16.
    """

    height: int
    width: int
    dense: bool
    batch: int
    training: bool
    device: str
    bf16: bool

    @property
    def task(self) -> str:
        """What is done, in words."""
        return "training" if self.training else "inference"

    @property
    def pixels(self) -> int:
        """Pixels of a batch."""
        return self.batch * self.height * self.width

    @property
    def size(self) -> str:
        """Size of the images, in words."""
        return f"{self.height} x {self.width}"

    def __str__(self) -> str:
        return f"{self.size}, batch {self.batch}, {self.task}"


@dataclass(frozen=True)
class Entry:
    """What gets a row in the tables.

    Attributes:
        model: A model of timm, or "setformer_" and a variant.
        backend: Backend of the operator, for SeTformer alone.
        tell_size: Whether the model has to be told the size of the images.
        compiled: Whether it runs under ``torch.compile``.
    """

    model: str
    backend: str = ""
    tell_size: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name of the row."""
        backend = f" ({self.backend})" if self.backend else ""
        return f"{self.model}{backend}{', compiled' if self.compiled else ''}"


class SeTformerClassifier(nn.Module):
    """SeTformer with one linear layer on its averaged features."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.backbone = SeTformer(variant, out_indices=(3,), gap_before_final_norm=True)
        self.head = nn.Linear(self.backbone.embed_dims[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])


def build(entry: Entry, setting: Setting) -> nn.Module:
    """Make a model with random weights, always the same ones."""
    torch.manual_seed(0)
    if entry.backend:
        variant = entry.model.removeprefix("setformer_")
        model = SeTformer(variant) if setting.dense else SeTformerClassifier(variant)
        use_backend(model, entry.backend)
    else:
        kind = dict(features_only=True) if setting.dense else {}
        if entry.tell_size:
            kind["img_size"] = (setting.height, setting.width)
        model = timm.create_model(entry.model, num_classes=NUM_CLASSES, **kind)
        for module in model.modules():
            if isinstance(module, timm.layers.DropPath):
                module.drop_prob = 0.0  # some have it by default and do less work
    model = model.to(setting.device).train(setting.training)
    return torch.compile(model) if entry.compiled else model


def make_images(setting: Setting) -> Tensor:
    """A batch of noise, always the same one."""
    torch.manual_seed(1)
    shape = setting.batch, 3, setting.height, setting.width
    return torch.randn(shape).to(setting.device)


def infer(model: nn.Module, images: Tensor, setting: Setting) -> list[Tensor]:
    """Scores in a list, or the maps of a pyramid."""
    with torch.inference_mode(), autocast(setting):
        out = model(images)
    return list(out) if setting.dense else [out]


def backpropagate(model: nn.Module, images: Tensor, setting: Setting) -> None:
    """Accumulate the gradients of a loss that all outputs have part in."""
    with autocast(setting):
        out = model(images)
    if setting.dense:
        # Not of squares, whose sum a LayerNorm makes the same for all images.
        loss = sum(feature.float().relu().mean() for feature in out)
    else:
        labels = torch.arange(setting.batch, device=setting.device)
        loss = F.cross_entropy(out.float(), labels)
    loss.backward()


def autocast(setting: Setting):
    """Mixed precision if it is asked for."""
    if setting.bf16:
        return torch.autocast(setting.device, torch.bfloat16)
    return nullcontext()


def prepare(entry: Entry, setting: Setting) -> Call:
    """Make the call that is measured: a batch through inference or a training step."""
    model = build(entry, setting)
    images = make_images(setting)
    if not setting.training:
        return lambda: infer(model, images, setting)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        backpropagate(model, images, setting)
        optimizer.step()
        optimizer.zero_grad()

    return step


def count_parameters(entry: Entry) -> int:
    """Parameters of the classifier."""
    classifier = Setting(
        height=224,
        width=224,
        dense=False,
        batch=1,
        training=False,
        device="cpu",
        bf16=False,
    )
    model = build(replace(entry, compiled=False), classifier)
    return sum(p.numel() for p in model.parameters())
