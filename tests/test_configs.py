"""Every config loads, builds its model and optimiser, and trains a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from setformer_mm.utils.results import config_sha256

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
VARIANTS = {"m": "mini", "t": "tiny", "s": "small", "b": "base"}
REAL = [
    name.format(x)
    for name in ("setformer_{}_in1k", "mask_rcnn_setformer_{}", "upernet_setformer_{}")
    for x in VARIANTS
]
MINI = ["setformer_digits", "mask_rcnn_setformer_digits", "upernet_setformer_digits"]
RELATIONS = ["setformer_relations", "fcn_setformer_relations"]
BACKBONES = "setformer setformer_mix_ffn swin convnext pvtv2 resnet vit".split()
BACKBONE_TASKS = ["classifier", "mask_rcnn_scratch", "segformer_scratch"]
BACKBONE_JOBS = [*BACKBONE_TASKS, "mask_rcnn_pretrained", "upernet_pretrained"]
COMPARED = [f"{job}_{name}" for job in BACKBONE_JOBS for name in BACKBONES]
DEMO = [f"{name}_demo" for name in MINI]
EXAMPLES = [
    "setformer_t_birds",
    "upernet_setformer_t_roads",
    "mask_rcnn_setformer_t_pets",
    "cascade_mask_rcnn_setformer_s",
    "upernet_setformer_t_attention",
]
ABLATIONS = sorted(path.stem for path in (CONFIGS / "ablation").glob("*.py"))
FILES = {
    **{name: CONFIGS / f"{name}.py" for name in REAL},
    **{name: CONFIGS / "digits" / f"{name}.py" for name in MINI + RELATIONS + DEMO},
    **{name: CONFIGS / "examples" / f"{name}.py" for name in EXAMPLES},
    **{name: CONFIGS / "ablation" / f"{name}.py" for name in ABLATIONS},
    **{name: CONFIGS / "backbones" / f"{name}.py" for name in COMPARED},
}
# Backbones with four output norms; classifiers with one and a head for 1000 classes.
BACKBONE_PARAMETERS = {
    "mini": 16_180_800,
    "tiny": 22_699_584,
    "small": 31_874_880,
    "base": 56_329_984,
}
CLASSIFIER_PARAMETERS = {
    "mini": 16_692_904,
    "tiny": 23_211_688,
    "small": 32_642_536,
    "base": 57_353_192,
}


def load(name: str) -> Config:
    return Config.fromfile(FILES[name])


@contextmanager
def built(cfg: Config) -> Iterator[nn.Module]:
    """Build the model in its library's scope; single-process runners revert SyncBN."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        yield revert_sync_batchnorm(MODELS.build(cfg.model))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_files_are_the_ones_listed_and_have_unique_names():
    files = [path for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts]
    assert sorted(files) == sorted(FILES.values())
    # `mim` finds a config by its file name alone.
    names = [path.name for path in CONFIGS.rglob("*.py")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", FILES)
def test_model_and_optimiser_build(name):
    cfg = load(name)
    with built(cfg) as model:
        check_parameter_counts(cfg, model)
        optimiser = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    check_weight_decay(model, optimiser)


@pytest.mark.parametrize("name", FILES)
def test_keys_can_be_written_as_text(name):
    """mmengine writes them between apostrophes as they are, and reads that."""
    assert not [key for key in keys_of(load(name)._cfg_dict) if "'" in key]


def keys_of(node: object) -> Iterator[str]:
    """The keys of all dicts within one another."""
    if isinstance(node, dict):
        yield from map(str, node)
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from keys_of(item)


def check_parameter_counts(cfg: Config, model: nn.Module) -> None:
    backbone = cfg.model.backbone
    if "arch" not in backbone or not isinstance(backbone.arch, str):
        return
    if cfg.default_scope == "mmpretrain":
        missing = (1000 - model.head.num_classes) * (model.head.in_channels + 1)
        expected = CLASSIFIER_PARAMETERS[backbone.arch] - missing
        assert num_parameters(model) == expected
    elif "attention" not in backbone:
        assert num_parameters(model.backbone) == BACKBONE_PARAMETERS[backbone.arch]


def check_weight_decay(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    decay = {
        parameter: group["weight_decay"]
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    for prefix, module in model.named_modules():
        is_norm = isinstance(module, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
        for name, parameter in module.named_parameters(recurse=False):
            learned_points = "anchors", "references", "return_references"
            exempt = is_norm or name == "bias" or name in learned_points
            assert (decay.pop(parameter) == 0) == exempt, f"{prefix}.{name}"
    assert not decay


@pytest.mark.parametrize("name", FILES)
def test_schedules_start_at_zero_and_end_with_the_training(name):
    cfg = load(name)
    end = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    warmup, main = cfg.param_scheduler
    assert warmup.begin == 0
    assert main.end == end
    assert main.by_epoch == ("max_epochs" in cfg.train_cfg)
    if warmup.by_epoch == main.by_epoch:
        assert main.begin == warmup.end < main.end
    assert max(main.get("milestones", [0])) < end
    assert cfg.train_cfg.val_interval <= end
    assert not cfg.auto_scale_lr.enable


@pytest.mark.parametrize("x", VARIANTS)
def test_dense_configs_start_from_what_the_imagenet_config_trains(x):
    imagenet = load(f"setformer_{x}_in1k")
    assert imagenet.model.backbone.arch == VARIANTS[x]
    for task in ("mask_rcnn", "upernet"):
        backbone = load(f"{task}_setformer_{x}").model.backbone
        assert backbone.arch == imagenet.model.backbone.arch
        assert backbone.drop_path_rate == imagenet.model.backbone.drop_path_rate
        last = f"epoch_{imagenet.train_cfg.max_epochs}.pth"
        assert backbone.init_cfg == dict(
            type="Pretrained",
            checkpoint=f"work_dirs/setformer_{x}_in1k/{last}",
            prefix="backbone.",
        )


@pytest.mark.parametrize(
    "name, lr, weight_decay, total_batch",
    [
        ("setformer_{}_in1k", 1e-3, 0.05, 1024),
        ("mask_rcnn_setformer_{}", 1e-4, 0.05, 16),
        ("upernet_setformer_{}", 6e-5, 0.01, 16),
    ],
)
def test_recipes(name, lr, weight_decay, total_batch):
    drop_paths = dict(m=0.2, t=0.2, s=0.3, b=0.5)
    for x, drop_path_rate in drop_paths.items():
        cfg = load(name.format(x))
        assert cfg.model.backbone.drop_path_rate == drop_path_rate
        assert cfg.optim_wrapper.optimizer.type == "AdamW"
        assert cfg.optim_wrapper.optimizer.lr == lr
        assert cfg.optim_wrapper.optimizer.weight_decay == weight_decay
        assert cfg.auto_scale_lr.base_batch_size == total_batch
        assert 8 * cfg.train_dataloader.batch_size == total_batch


def test_imagenet_recipes_start_from_k_means():
    for x in VARIANTS:
        hooks = [hook.type for hook in load(f"setformer_{x}_in1k").custom_hooks]
        assert hooks == ["ExactResumeHook", "KMeansReferenceInitHook"]


@pytest.mark.parametrize("name", DEMO)
def test_demo_trains_the_model_of_the_long_recipe(name):
    """Else the committed checkpoints would not fit the demo."""
    assert load(name).model == load(name.removesuffix("_demo")).model


def test_mini_checkpoints_fit_into_eight_megabytes():
    total = 0
    for name in MINI:
        with built(load(name)) as model:
            total += num_parameters(model)
    # The files' names and headers, three together, took 133 kB.
    bytes_of_fp16, container = 2 * total, 150_000
    assert bytes_of_fp16 + container < 8_000_000


@pytest.mark.parametrize("name", EXAMPLES)
def test_docs_show_the_examples_as_they_are(name):
    docs = (ROOT / "docs" / "experiments.md").read_text()
    path = FILES[name].relative_to(ROOT)
    assert f"`{path}`" in docs
    assert f"```python\n{FILES[name].read_text()}```" in docs


def random_batch(scope: str, size: int, num_images: int = 2) -> dict:
    """Random images with random annotations, as the library's dataset packs them."""
    images = torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8)
    if scope == "mmpretrain":
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(label) for label in range(num_images)]
        return dict(inputs=images, data_samples=samples)
    if scope == "mmseg":
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        shape = (size, size)
        samples = []
        for _ in range(num_images):
            sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *shape)))
            samples.append(sample)
        return dict(inputs=list(images), data_samples=samples)
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        num_images,
        image_shapes=[(3, size, size)] * num_images,
        num_items=[3] * num_images,
        num_classes=2,
        with_mask=True,
    )


def check_training_step(name: str, size: int, dtype: torch.dtype) -> None:
    cfg = load(name)
    cfg.model.backbone.init_cfg = None
    if "size" in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (size, size)
    with built(cfg) as model:
        model.init_weights()
        model.train()
        batch = random_batch(cfg.default_scope, size)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = model(**model.data_preprocessor(batch, True), mode="loss")
        loss, log = model.parse_losses(losses)
        loss.backward()
    assert all(value.isfinite().all() for value in log.values()), log
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MINI)
def test_mini_models_train(name, dtype):
    check_training_step(name, 64, dtype)


@pytest.mark.parametrize("name", RELATIONS)
def test_relational_models_train(name):
    check_training_step(name, 64, torch.float32)


@pytest.mark.parametrize("name", BACKBONES)
def test_compared_backbones_are_of_one_size(name):
    """Within a tenth of SeTformer's parameters, with one output or four."""
    for job in ("classifier", "segformer_scratch"):
        sizes = []
        for cfg in (load(f"{job}_{name}"), load(f"{job}_setformer")):
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                sizes.append(num_parameters(MODELS.build(cfg.model.backbone)))
        assert sizes[0] / sizes[1] == pytest.approx(1, abs=0.1), job


@pytest.mark.parametrize("job", BACKBONE_JOBS)
def test_compared_backbones_have_one_recipe(job):
    """All that a training takes is the same, but for the model."""
    hashes = set()
    for name in BACKBONES:
        cfg = load(f"{job}_{name}")
        cfg.pop("model")
        hashes.add(config_sha256(cfg))
    assert len(hashes) == 1


@pytest.mark.parametrize("task", BACKBONE_TASKS)
@pytest.mark.parametrize("name", BACKBONES)
def test_compared_backbones_train_and_predict(name, task):
    cfg = load(f"{task}_{name}")
    if "size" in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (64, 64)
    with built(cfg) as model:
        model.init_weights()
        optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
        for _ in range(2):
            batch = model.data_preprocessor(random_batch(cfg.default_scope, 64), True)
            loss, log = model.parse_losses(model(**batch, mode="loss"))
            assert all(value.isfinite().all() for value in log.values()), log
            loss.backward()
            assert all(p.grad is not None for p in model.parameters())
            optimiser.step()
            optimiser.zero_grad()
        results = model.eval().val_step(random_batch(cfg.default_scope, 64))
    assert len(results) == 2


@pytest.mark.parametrize("name", BACKBONES)
def test_dense_backbones_start_from_what_their_classifier_trains(name, tmp_path):
    path = tmp_path / "classifier.pth"
    cfg = load(f"classifier_{name}")
    last = f"classifier_{name}/seed_0/epoch_{cfg.train_cfg.max_epochs}.pth"
    with built(cfg) as classifier:
        torch.save(dict(state_dict=classifier.state_dict()), path)
    for task in ("mask_rcnn", "upernet"):
        cfg = load(f"{task}_pretrained_{name}")
        init_cfg = cfg.model.backbone.init_cfg
        assert init_cfg.checkpoint == f"ablation_output/backbones/{last}"
        init_cfg.checkpoint = str(path)
        with built(cfg) as model:
            model.init_weights()
        own = model.backbone.state_dict()
        for key, value in classifier.backbone.state_dict().items():
            assert torch.equal(own[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REAL + EXAMPLES)
def test_models_train(name, dtype):
    check_training_step(name, 128, dtype)
