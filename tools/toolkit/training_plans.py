"""What a training costs, computed from its config and from assumptions on GPUs."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config

from setformer_mm.utils.complexity import DenseDetector, count_multiply_adds
from setformer_mm.utils.errors import UserError

from .launch import build_model
from .model_figures import TASKS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Multiply-adds of a training step by those of a forward pass: the backward pass has two
# products for each.
PASSES = 3
GPUS_A_NODE = 8
# Bytes a second and direction between nodes: assumed is one 400 Gbit/s adapter a GPU.
INFINIBAND = 50e9
GRADIENT_BYTES = 4
# COCO's images are mostly 640 x 480.
ASPECT = 4 / 3


@dataclass(frozen=True)
class Gpu:
    """What NVIDIA's data sheets state of the SXM variants.

    Attributes:
        flops: Dense bfloat16 FLOP/s.
        nvlink: Bytes a second and direction.
    """

    flops: float
    nvlink: float


H100 = Gpu(989e12, 450e9)  # the H200 has another memory
KINDS = dict(A100=Gpu(312e12, 300e9), H100=H100, H200=H100)


@dataclass(frozen=True)
class Rates:
    """What is assumed of a training; docs/training_cost.md says why.

    Attributes:
        utilisation: Share of the GPU's peak that the products of a step reach.
        images_a_core: Images a second that one CPU core loads.
        least_step: Seconds that a step takes however small its batch is: some thousand
            kernels to launch, and Python.
    """

    utilisation: float
    images_a_core: float
    least_step: float


@dataclass(frozen=True)
class Job:
    """What training a task of model_tables takes besides its config.

    Attributes:
        images: Images of the training split that the config keeps; stated by the data
            sets, nothing here reads them.
        rates: Cautious and hopeful assumptions.
    """

    title: str
    images: int
    rates: tuple[Rates, Rates]


JOBS = dict(
    imagenet=Job(
        "ImageNet-1K, 224 x 224, 300 epochs",
        1_281_167,
        (Rates(0.1, 60, 0.1), Rates(0.3, 150, 0.05)),
    ),
    coco=Job(
        "COCO, Mask R-CNN, 36 epochs",
        117_266,
        (Rates(0.05, 15, 0.4), Rates(0.2, 30, 0.15)),
    ),
    ade20k=Job(
        "ADE20K, UperNet, 512 x 512, 160k iterations",
        20_210,
        (Rates(0.1, 15, 0.2), Rates(0.3, 30, 0.08)),
    ),
)


@dataclass(frozen=True)
class Model:
    """What its cost depends on: multiply-adds of an image, and parameters."""

    multiply_adds: float
    parameters: int


@dataclass(frozen=True)
class Schedule:
    """Images that a schedule shows, its total batch, and its learning rate."""

    images: int
    batch: int
    lr: float


@dataclass(frozen=True)
class Plan:
    """How a training runs on some GPUs, at one utilisation.

    Attributes:
        batch: Images a step, on all GPUs.
        lr: Learning rate that belongs to it.
        steps: Number of steps.
        compute: Seconds a step of the products, or the least if they take less.
        loading: Seconds a step to load the images with the cores there are.
        exchange: Seconds a step to sum gradients, if nothing else went on meanwhile.
    """

    gpus: int
    batch: int
    lr: float
    steps: int
    compute: float
    loading: float
    exchange: float

    @property
    def step(self) -> float:
        """Seconds a step: loading goes on beside it, exchange is taken not to."""
        return max(self.compute + self.exchange, self.loading)

    @property
    def hours(self) -> float:
        """Hours of the whole training, without evaluations."""
        return self.steps * self.step / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs."""
        return self.gpus * self.hours

    @property
    def images_a_second(self) -> float:
        """Images of one GPU while it does not wait for their loading."""
        return self.batch / self.gpus / (self.compute + self.exchange)


def load(name: str, variant: str) -> Config:
    """The config of a job, with weights of its own."""
    cfg = Config.fromfile(CONFIGS / f"{TASKS[name].config.format(variant)}.py")
    cfg.model.backbone.init_cfg = None
    return cfg


def mean_pixels(cfg: Config) -> float:
    """Mean area of the scales that a detector's pipeline chooses from."""
    choice = next(t for t in cfg.train_pipeline if t["type"] == "RandomChoice")
    scales = choice["transforms"][0][0]["scales"]
    shorter = [min(side, longest / ASPECT) for side, longest in scales]
    return sum(ASPECT * side**2 for side in shorter) / len(shorter)


def measure_model(cfg: Config) -> Model:
    """Count a model as it is trained."""
    model = build_model(cfg)
    parameters = sum(p.numel() for p in model.parameters())
    if cfg.default_scope == "mmdet":
        # All but the heads of regions is linear in the pixels.
        height, width = 320, 448
        image = torch.zeros(1, 3, height, width)
        by_pixel = count_multiply_adds(DenseDetector(model), image) / (height * width)
        regions = cfg.model.train_cfg.rcnn.sampler
        masks = int(regions.num * regions.pos_fraction)  # at most
        heads = model.roi_head
        channels = cfg.model.neck.out_channels
        box, mask = torch.zeros(1, channels, 7, 7), torch.zeros(1, channels, 14, 14)
        count = (
            mean_pixels(cfg) * by_pixel
            + regions.num * count_multiply_adds(heads.bbox_head, box)
            + masks * count_multiply_adds(heads.mask_head, mask)
        )
    elif cfg.default_scope == "mmseg":
        image = torch.zeros(1, 3, *cfg.crop_size)
        count = count_multiply_adds(model, image)  # without the auxiliary head
        with torch.no_grad():
            features = model.extract_feat(image)
        count += count_multiply_adds(model.auxiliary_head, features)
    else:
        count = count_multiply_adds(model, torch.zeros(1, 3, 224, 224))
    return Model(count, parameters)


def read_schedule(cfg: Config, images: int) -> Schedule:
    """The schedule of a config, for a training split of ``images``."""
    batch = cfg.auto_scale_lr.base_batch_size
    if cfg.train_cfg.type == "IterBasedTrainLoop":
        shown = cfg.train_cfg.max_iters * batch
    else:
        shown = cfg.train_cfg.max_epochs * images
    return Schedule(shown, batch, cfg.optim_wrapper.optimizer.lr)


def exchange_seconds(parameters: int, gpus: int, gpu: Gpu) -> float:
    """Seconds of a ring all-reduce, which sends ``2 (n - 1) / n`` of the gradients."""
    if gpus == 1:
        return 0.0
    sent = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * parameters
    return sent / (gpu.nvlink if gpus <= GPUS_A_NODE else INFINIBAND)


def plan(
    model: Model, schedule: Schedule, rates: Rates, gpu: Gpu, gpus: int, cores: int
) -> Plan:
    """Plan a training on ``gpus`` GPUs with ``cores`` CPU cores each.

    The total batch stays that of the config unless it has fewer images than there are
    GPUs: then each gets one, and the learning rate grows with the batch.
    """
    batch = max(schedule.batch, gpus)
    products = 2 * PASSES * model.multiply_adds * batch / gpus
    return Plan(
        gpus=gpus,
        batch=batch,
        lr=schedule.lr * batch / schedule.batch,
        steps=math.ceil(schedule.images / batch),
        compute=max(products / (rates.utilisation * gpu.flops), rates.least_step),
        loading=batch / gpus / (cores * rates.images_a_core),
        exchange=exchange_seconds(model.parameters, gpus, gpu),
    )


def measured_utilisation(path: str, gpu: str) -> dict[str, float]:
    """Shares of the peak that SeTformer-T reached in training, by table.

    The pyramid at 800 x 1280 stands for detector and segmenter, whose heads were not
    measured.

    Raises:
        UserError: if the file has no training of the backbone.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        records = content["backbone"].get("records", [])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what tools/gpu_check.sh writes: {error!r}"
        ) from (error)
    image = torch.zeros(1, 3, 224, 224)
    backbone = build_model(load("imagenet", "t")).backbone
    by_pixel = count_multiply_adds(backbone, image) / 224**2
    shares = {}
    for record in records:
        setting = record["setting"]
        times = [
            times
            for name, times in record["times"].items()
            if name.startswith("setformer_tiny")
        ]
        if not setting["training"] or not times:
            continue
        pixels = setting["batch"] * setting["height"] * setting["width"]
        flops = 2 * PASSES * by_pixel * pixels / median(times[0])
        names = ("coco", "ade20k") if setting["dense"] else ("imagenet",)
        shares |= dict.fromkeys(names, flops / KINDS[gpu].flops)
    if set(shares) != set(JOBS):
        raise UserError(
            f"{path} has no training of setformer_tiny at 224 and 800x1280, which "
            "tools/gpu_check.sh measures where mmengine, mmpretrain and timm are"
        )
    return shares
