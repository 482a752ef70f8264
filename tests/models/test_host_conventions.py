"""What users of the host libraries expect of a backbone by its peers."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import turn_on_activation_checkpointing
from mmengine.utils.dl_utils import is_norm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from setformer_mm import SeTformer, SeTformerLayerDecayConstructor

SMALL = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=1.5)


class Model(nn.Module):
    """A model as the host libraries build them."""

    def __init__(self, **fields) -> None:
        super().__init__()
        self.backbone = SeTformer(SMALL, **fields)
        self.head = nn.Linear(64, 3)

    def forward(self, images):
        return self.head(self.backbone(images)[-1].mean((2, 3)))


@pytest.mark.parametrize("frozen_stages", range(-1, 5))
def test_frozen_stages_are_those_of_mmdets_swin(frozen_stages):
    swin = pytest.importorskip("mmdet.models").SwinTransformer(
        embed_dims=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
        frozen_stages=frozen_stages,
    )
    model = SeTformer(SMALL, frozen_stages=frozen_stages)

    def frozen(parts):
        return [not any(p.requires_grad for p in part.parameters()) for part in parts]

    def parts(backbone):
        norms = [getattr(backbone, f"norm{i}") for i in range(4)]
        return [backbone.patch_embed, *backbone.stages, *norms]

    swin.train(), model.train()
    assert frozen(parts(model)) == frozen(parts(swin))


@pytest.mark.parametrize("padding", [0, 24])
def test_grad_cam_finds_maps_at_the_last_norm(padding):
    """mmpretrain's vis_cam.py takes the last norm of the backbone, and 4D for NCHW."""
    model = Model(out_indices=-1).eval()
    norms = [layer for layer in model.backbone.modules() if is_norm(layer)]
    seen = {}
    norms[-1].register_forward_hook(lambda *a: seen.update(activations=a[-1]))
    images = torch.randn(1, 3, 64, 96)
    if padding:
        images[..., -padding:] = 0
    scores = model(images)
    assert seen["activations"].shape == (1, 64, 2, 3)
    (gradient,) = torch.autograd.grad(scores[0, 1], seen["activations"])
    # The gradient of a mean over the grid is one weight a channel.
    expected = (model.head.weight[1] / 6)[:, None, None].expand(-1, 2, 3)
    torch.testing.assert_close(gradient[0], expected)


@pytest.mark.parametrize(
    "names",
    [
        ["backbone.stages.0", "backbone.stages.3"],
        ["backbone.stages.1.blocks.0", "backbone.stages.1.blocks.1"],
        "backbone.stages.1.blocks.1.attn",
        ["backbone.patch_embed", "backbone.stages.1.blocks.1.mlp"],
    ],
)
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint:UserWarning")
@pytest.mark.filterwarnings("ignore:.*use_reentrant parameter should:UserWarning")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_activation_checkpointing_of_mmengine(names):
    model = Model(drop_path_rate=0.3)
    recomputing = copy.deepcopy(model)
    turn_on_activation_checkpointing(recomputing, names)
    images = torch.randn(2, 3, 40, 40, requires_grad=True)
    for each in (model, recomputing):
        torch.manual_seed(0)
        each(images).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), recomputing.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_layer_decay_of_mmpretrain():
    constructor = pytest.importorskip(
        "mmpretrain.engine.optimizers"
    ).LearningRateDecayOptimWrapperConstructor
    optimiser = dict(type="AdamW", lr=1.0, weight_decay=0.1)
    cfg = dict(type="OptimWrapper", optimizer=optimiser)
    paramwise = dict(layer_decay_rate=0.5, norm_decay_mult=0.0, bias_decay_mult=0.0)
    init_default_scope("mmpretrain")
    model = pytest.importorskip("mmpretrain.models").ImageClassifier(
        dict(type="SeTformer", arch=SMALL, out_indices=-1),
        neck=dict(type="mmpretrain.GlobalAveragePooling"),
        head=dict(type="mmpretrain.LinearClsHead", num_classes=3, in_channels=64),
        data_preprocessor=dict(type="mmpretrain.ClsDataPreprocessor"),
    )
    theirs, ours = (
        {
            parameter: (group["lr"], group["weight_decay"])
            for group in kind(cfg, paramwise)(model).optimizer.param_groups
            for parameter in group["params"]
        }
        for kind in (constructor, SeTformerLayerDecayConstructor)
    )
    for name, parameter in model.named_parameters():
        assert theirs[parameter] == pytest.approx(ours[parameter]), name


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_distributed_training_with_the_outputs_that_are_used(process_group):
    images = torch.randn(1, 3, 40, 40)

    def train(out_indices) -> None:
        model = DistributedDataParallel(Model(out_indices=out_indices))
        for _ in range(2):
            model(images).sum().backward()

    train(-1)
    with pytest.raises(RuntimeError, match="not used in producing loss"):
        train((2, 3))  # what the sentence of tools/train.py is about
