"""setformer_mm.optim.group_table: a few lines for hundreds of groups."""

from mmengine.optim import LinearLR, build_optim_wrapper
from mmengine.registry import MODELS
from test_layer_decay import BACKBONE, PARAMWISE

from setformer_mm.optim import group_table


def test_every_parameter_is_counted_once_in_a_few_lines():
    model = MODELS.build(BACKBONE)
    paramwise = {k: v for k, v in PARAMWISE.items() if k != "layer_decay_rate"}
    keys = {**PARAMWISE["custom_keys"], "patch_embed": dict(lr_mult=10, decay_mult=1)}
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.05),
            paramwise_cfg=dict(paramwise, custom_keys=keys),
        ),
    )
    LinearLR(wrapper, start_factor=0.01, end=5)  # the table shows what it rises to
    header, *rows = group_table(wrapper, model).splitlines()
    assert header.split()[:4] == ["learning", "rate", "weight", "decay"]
    cells = [row.split() for row in rows]
    settings = [tuple(row[:2]) for row in cells]
    assert settings == [("1", "0.05"), ("0.1", "0.05"), ("0.1", "0")]
    parameters = dict(model.named_parameters())
    assert len(wrapper.optimizer.param_groups) == len(parameters) > 20 * len(rows)
    tensors, values = (
        sum(int(row[i].replace(",", "")) for row in cells) for i in (2, 3)
    )
    assert tensors == len(parameters)
    assert values == sum(parameter.numel() for parameter in parameters.values())
    assert cells[0][4].startswith("patch_embed.") and cells[1][4] in parameters
