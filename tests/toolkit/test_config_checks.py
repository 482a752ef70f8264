"""Fields that cannot be meant are named before anything is built."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from setformer_mm.utils.errors import UserError
from toolkit.config_checks import (
    misspelt_fields,
    padding_mistaken,
    require_enough_for_batch_norm,
    require_fitting_class_counts,
    require_hooks,
    require_integers,
    require_parts,
    require_usable_class_weights,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(ROOT.glob("configs/**/[!_]*.py"))
UPERNET = Config.fromfile(ROOT / "configs" / "upernet_setformer_t.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_configs_are_meant(path):
    cfg = Config.fromfile(path)
    assert misspelt_fields(cfg) == []
    assert padding_mistaken(cfg) == []
    require_integers(cfg)
    require_hooks(cfg)
    require_enough_for_batch_norm(cfg)
    require_fitting_class_counts(cfg, ("train", "val", "test"))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optim_wraper", "optim_wrapper"),
        ("param_schedulers", "param_scheduler"),
        ("train_dataloder", "train_dataloader"),
        ("custom_hook", "custom_hooks"),
        ("Default_hooks", "default_hooks"),
        ("load_form", "load_from"),
    ],
)
def test_a_near_miss_is_named(wrong, right):
    (sentence,) = misspelt_fields(Config({wrong: {}, "my_variable": 3}))
    assert (
        sentence == f"the config's field {wrong} has no effect; did you mean {right}?"
    )


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("train_cfg.max_epochs", 1.5, 1),
        ("train_cfg.max_iters", "100", 1),
        ("train_dataloader.batch_size", 2.0, 1),
        ("val_dataloader.num_workers", -1, 0),
        ("randomness.seed", -1, 0),
        ("optim_wrapper.accumulative_counts", True, 1),
        ("default_hooks.checkpoint.interval", 0.5, -1),
    ],
)
def test_integers(key, value, least):
    cfg = Config({})
    cfg.merge_from_dict({key: least})
    require_integers(cfg)
    cfg.merge_from_dict({key: value})
    with pytest.raises(UserError, match=f"{key} must be an integer of at least"):
        require_integers(cfg)


@pytest.mark.parametrize(
    "hooks", [["EMAHook"], "EMAHook", dict(type="EMAHook"), [3], [dict(interval=1)]]
)
def test_hooks(hooks):
    for fine in (None, [], [dict(type="EMAHook"), Hook()]):
        require_hooks(Config(dict(custom_hooks=fine)))
    with pytest.raises(UserError, match=r"custom_hooks must be a list .*, got [\['{]"):
        require_hooks(Config(dict(custom_hooks=hooks)))


def test_batch_norm_of_one_picture(monkeypatch):
    cfg = UPERNET.copy()
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    cfg.train_dataloader.batch_size = 1
    with pytest.raises(UserError, match=r"decode_head \(UPerHead\) .*type=SyncBN"):
        require_enough_for_batch_norm(cfg)
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_enough_for_batch_norm(cfg)
    cfg.model.decode_head.norm_cfg = dict(type="BN")
    with pytest.raises(UserError, match="type=BN"):
        require_enough_for_batch_norm(cfg)
    cfg.model.decode_head.norm_cfg = dict(type="GN", num_groups=32)
    require_enough_for_batch_norm(cfg)


def test_class_weights_where_ignored_pixels_have_none(monkeypatch):
    """As in the loss of OpenMMLab's mmsegmentation 1.2.2."""
    module = pytest.importorskip("mmseg.models.losses.cross_entropy_loss")
    digits = Config.fromfile(ROOT / "configs/digits/upernet_setformer_digits.py")

    def with_a_weight_for_each(pred, label, class_weight, **_):
        return torch.stack([class_weight[each] for each in label])

    monkeypatch.setattr(module, "cross_entropy", with_a_weight_for_each)
    with pytest.raises(UserError) as error:
        require_usable_class_weights(digits)
    (key,) = re.findall(r"pass (\S+)=None", str(error.value))
    assert key == "model.decode_head.loss_decode.class_weight"
    require_usable_class_weights(UPERNET)
    monkeypatch.setattr(module, "cross_entropy", lambda *args, **fields: None)
    require_usable_class_weights(digits)


@pytest.mark.parametrize("key", ["model.data_preprocessor", "data_preprocessor"])
def test_classes_of_labels_and_of_logits(key):
    """mmpretrain ended in the first iteration, or after the first epoch."""
    cfg = Config.fromfile(ROOT / "configs" / "setformer_t_in1k.py")
    if key == "data_preprocessor":
        cfg.data_preprocessor = cfg.model.pop(key)
    cfg.model.head.num_classes = 3
    require_fitting_class_counts(cfg, [])
    with pytest.raises(UserError, match=rf"^{key}\.num_classes must be 3, .* got 1000"):
        require_fitting_class_counts(cfg, ["train", "val"])
    cfg.merge_from_dict({f"{key}.num_classes": 3})
    with pytest.raises(UserError, match=r"^val_evaluator\.topk must be at most 3, the"):
        require_fitting_class_counts(cfg, ["train", "val"])
    for topk in ((1, 3), 3, range(1, 4)):
        cfg.val_evaluator = [dict(type="mmpretrain.Accuracy", topk=topk)]
        require_fitting_class_counts(cfg, ["train", "val"])
    cfg.val_evaluator.append(dict(type="Accuracy", topk=4))
    with pytest.raises(UserError, match=r"^val_evaluator\.1\.topk must .* got 4$"):
        require_fitting_class_counts(cfg, ["train", "val"])


def test_labels_that_stay_numbers():
    cfg = Config.fromfile(ROOT / "configs" / "digits" / "setformer_digits.py")
    cfg.model.data_preprocessor.num_classes = 1000
    require_fitting_class_counts(cfg, ["train"])
    cfg.model.train_cfg = dict(augments=dict(type="Mixup", alpha=0.8))
    cfg.model.data_preprocessor.batch_augments = None  # goes before `train_cfg`
    require_fitting_class_counts(cfg, ["train"])
    cfg.model.data_preprocessor.to_onehot = True
    with pytest.raises(UserError, match="because labels become one-hot vectors"):
        require_fitting_class_counts(cfg, ["train"])
    cfg.model.data_preprocessor.num_classes = None  # samples tell it
    require_fitting_class_counts(cfg, ["train"])


def test_classes_of_a_model_within_test_time_augmentation():
    cfg = Config.fromfile(ROOT / "configs" / "digits" / "setformer_digits.py")
    cfg.model = dict(type="AverageClsScoreTTA", module=cfg.model)
    cfg.test_evaluator = dict(type=type("Accuracy", (), {}), topk=(1, 20))
    with pytest.raises(UserError, match=r"^test_evaluator\.topk must be at most 10"):
        require_fitting_class_counts(cfg, ["test"])


@pytest.mark.parametrize(
    "place, change, sentence",
    [
        ("model.data_preprocessor", dict(pad_val=114), "pad_val=114 pads with what"),
        ("model.data_preprocessor", dict(mean=None), "has no mean but 0, so that"),
        ("model.data_preprocessor", dict(mean=[0.0] * 3), "has no mean but 0, so that"),
        (
            "val_dataloader.dataset",
            dict(pipeline=[dict(type="mmdet.Pad", size=(9, 9))]),
            "Pad in the pipeline of val_dataloader pads before",
        ),
    ],
)
def test_padding_that_a_backbone_cannot_tell(place, change, sentence):
    cfg = copy.deepcopy(UPERNET)
    assert padding_mistaken(cfg) == []
    functools.reduce(getattr, place.split("."), cfg).update(change)
    (found,) = padding_mistaken(cfg)
    assert re.search(sentence, found)
    cfg.model.backbone.padding = "ignore"
    assert padding_mistaken(cfg) == []


def test_padding_of_other_backbones_is_their_own():
    model = dict(backbone=dict(type="ResNet"), data_preprocessor=dict(pad_value=114))
    assert padding_mistaken(Config(dict(model=model))) == []


def test_parts_that_a_tool_needs(tmp_path):
    require_parts(UPERNET, ["model", "train_dataloader"])
    (tmp_path / "a.py").write_text("model = None\ntrain_cfg = 'by epochs'\n")
    cfg = Config.fromfile(tmp_path / "a.py")
    with pytest.raises(UserError, match="a.py lacks model, optim_wrapper; add"):
        require_parts(cfg, ["model", "train_cfg", "optim_wrapper"])
    with pytest.raises(UserError, match="^train_cfg of .* dict, got 'by epochs'$"):
        require_parts(cfg, ["train_cfg"])
