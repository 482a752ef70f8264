import pytest
import torch
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from setformer_mm import SeTformer
from setformer_mm.optim import cancelled_exemptions

LR, WEIGHT_DECAY, RATE = 0.1, 0.05, 0.5
DEPTHS = (1, 2, 1, 1)
WIDTHS = [32, 64, 128, 256]
BACKBONE = dict(
    type="SeTformer",
    arch=dict(embed_dims=32, depths=DEPTHS, num_heads=(1, 2, 4, 8), mlp_ratio=1),
    attention=dict(reference_shape=(2, 2)),
)
LR_ONLY = dict(lr_mult=0.1)
PARAMWISE = dict(
    layer_decay_rate=RATE,
    norm_decay_mult=0.0,
    bias_decay_mult=0.0,
    custom_keys={
        "anchors": dict(decay_mult=0.0),
        "references": dict(decay_mult=0.0),
    },
)


def classifier():
    return dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(BACKBONE, out_indices=(3,), gap_before_final_norm=True),
        head=dict(type="mmpretrain.LinearClsHead", num_classes=10, in_channels=256),
    )


def upernet():
    return dict(
        type="mmseg.EncoderDecoder",
        backbone=BACKBONE,
        decode_head=dict(
            type="mmseg.UPerHead",
            in_channels=WIDTHS,
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=11,
            norm_cfg=dict(type="BN"),
        ),
        test_cfg=dict(mode="whole"),
    )


def mask_rcnn():
    model = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model
    model.backbone = BACKBONE
    model.neck.update(in_channels=WIDTHS, out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.out_channels = 16
    model.roi_head.mask_roi_extractor.out_channels = 16
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16)
    model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16)
    return model


def build(config, scope):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(config)


def options_of(model, **paramwise):
    """Build the optimiser; return lr and weight decay of each parameter by name."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="AdamW", lr=LR, weight_decay=WEIGHT_DECAY),
            constructor="SeTformerLayerDecayConstructor",
            paramwise_cfg=dict(PARAMWISE, **paramwise),
        ),
    )
    groups = wrapper.optimizer.param_groups
    by_id = {id(p): g for g in groups for p in g["params"]}
    assert len(by_id) == sum(len(group["params"]) for group in groups)
    options = {
        name: (by_id[id(p)]["lr"], by_id[id(p)]["weight_decay"])
        for name, p in model.named_parameters()
        if id(p) in by_id
    }
    return options, groups


def check_backbone(options, prefix):
    """The stem, five blocks and the top are seven layers, 0 to 6."""
    expected = {
        "patch_embed.conv1.weight": (LR * RATE**6, WEIGHT_DECAY),
        "patch_embed.conv1.bias": (LR * RATE**6, 0.0),
        "patch_embed.norm.weight": (LR * RATE**6, 0.0),
        "stages.0.blocks.0.attn.in_proj.weight": (LR * RATE**5, WEIGHT_DECAY),
        "stages.0.blocks.0.attn.anchors": (LR * RATE**5, 0.0),
        "stages.0.downsample.conv.weight": (LR * RATE**4, WEIGHT_DECAY),
        "stages.1.blocks.0.attn.references": (LR * RATE**4, 0.0),
        "stages.1.blocks.1.attn.return_references": (LR * RATE**3, 0.0),
        "stages.1.blocks.1.norm2.bias": (LR * RATE**3, 0.0),
        "stages.2.blocks.0.mlp.0.weight": (LR * RATE**2, WEIGHT_DECAY),
        "stages.3.blocks.0.mlp.2.weight": (LR * RATE, WEIGHT_DECAY),
        "norm3.weight": (LR, 0.0),
    }
    for name, want in expected.items():
        assert options[prefix + name] == pytest.approx(want), name


@pytest.mark.parametrize(
    ("config", "scope"),
    [(classifier, "mmpretrain"), (mask_rcnn, "mmdet"), (upernet, "mmseg")],
    ids=["classifier", "mask_rcnn", "upernet"],
)
def test_host_models(config, scope):
    model = build(config(), scope)
    options, groups = options_of(model)
    assert options.keys() == {name for name, _ in model.named_parameters()}
    check_backbone(options, "backbone.")
    for name, (lr, _) in options.items():
        if not name.startswith("backbone."):
            assert lr == LR, name
    # Seven layers, with and without weight decay; the first is what mmengine logs.
    assert len(groups) <= 14
    assert groups[0]["lr"] == LR and groups[-1]["lr"] == pytest.approx(LR * RATE**6)


def test_bare_backbone():
    options, _ = options_of(MODELS.build(BACKBONE))
    check_backbone(options, "")


def test_distributed_wrapper(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(MODELS.build(BACKBONE))
        options, _ = options_of(model)
    finally:
        torch.distributed.destroy_process_group()
    check_backbone(options, "module.")


def test_frozen_parameters_are_left_out():
    options, _ = options_of(SeTformer(BACKBONE["arch"], frozen_stages=1))
    assert not any(name.startswith(("patch_embed", "stages.0")) for name in options)
    assert "stages.1.blocks.0.attn.in_proj.weight" in options


def test_a_partial_custom_key_keeps_the_other_rules():
    """Exemptions of norms, biases, anchors and references stay under a longer key."""
    keys = dict(PARAMWISE["custom_keys"])
    model = SeTformer(BACKBONE["arch"])
    before, _ = options_of(model)
    after, _ = options_of(model, custom_keys={**keys, "stages.3.blocks.0": LR_ONLY})
    for name, (lr, decay) in before.items():
        factor = 0.1 if "stages.3.blocks.0" in name else 1.0
        assert after[name] == pytest.approx((factor * lr, decay)), name
    assert {decay for _, decay in before.values()} == {0.0, WEIGHT_DECAY}


def test_cancelled_exemptions_of_mmengines_constructor_are_named():
    model = SeTformer(BACKBONE["arch"])
    paramwise = {k: v for k, v in PARAMWISE.items() if k != "layer_decay_rate"}
    wrapper = dict(
        optimizer=dict(type="AdamW", lr=LR, weight_decay=WEIGHT_DECAY),
        paramwise_cfg=paramwise,
    )
    assert cancelled_exemptions(model, wrapper) == []
    keys = {**PARAMWISE["custom_keys"], "stages.3.blocks.0": LR_ONLY}
    wrapper["paramwise_cfg"] = dict(paramwise, custom_keys=keys)
    (sentence,) = cancelled_exemptions(model, wrapper)
    assert "custom_keys['stages.3.blocks.0'] has no decay_mult" in sentence
    # The sentence tells what mmengine does.
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    decays = {id(g["params"][0]): g["weight_decay"] for g in groups}
    combined, _ = options_of(model, custom_keys=keys)
    wrong = [
        name
        for name, p in model.named_parameters()
        if decays[id(p)] != pytest.approx(combined[name][1])
    ]
    assert f"{len(wrong)} parameters" in sentence and wrong[0] in sentence

    wrapper["constructor"] = "SeTformerLayerDecayConstructor"
    assert cancelled_exemptions(model, wrapper) == []
    keys["stages.3.blocks.0"] = dict(lr_mult=0.1, decay_mult=0.0)
    del wrapper["constructor"]
    assert cancelled_exemptions(model, wrapper) == []


def test_longest_custom_key_wins_and_multiplies_the_scale():
    options, _ = options_of(
        SeTformer(BACKBONE["arch"]),
        custom_keys={
            "attn": dict(decay_mult=0.0),
            "attn.in_proj": dict(lr_mult=10.0, decay_mult=2.0),
        },
    )
    block = "stages.3.blocks.0.attn."
    assert options[block + "anchors"] == pytest.approx((LR * RATE, 0.0))
    assert options[block + "in_proj.bias"] == pytest.approx(
        (10 * LR * RATE, 2 * WEIGHT_DECAY)
    )


def test_rate_one_switches_the_decay_off():
    options, groups = options_of(MODELS.build(BACKBONE), layer_decay_rate=1)
    assert {lr for lr, _ in options.values()} == {LR} and len(groups) == 2


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, None, "0.9"])
def test_rate_is_checked(rate):
    with pytest.raises(ValueError, match=r"layer_decay_rate must be in \(0, 1\], got"):
        options_of(SeTformer(BACKBONE["arch"]), layer_decay_rate=rate)


def test_misspelt_options_are_errors():
    model = SeTformer(BACKBONE["arch"])
    with pytest.raises(ValueError, match=r"paramwise_cfg must have .* got \['decay'\]"):
        options_of(model, decay=0.9)
    with pytest.raises(ValueError, match=r"custom_keys\['attn'\] must .* got \['wd'\]"):
        options_of(model, custom_keys={"attn": dict(wd=0.0)})


def test_a_model_without_the_backbone_is_an_error():
    with pytest.raises(ValueError, match="SeTformer backbone .* got Linear"):
        options_of(nn.Linear(2, 2))
