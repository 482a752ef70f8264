"""What an optimiser does with the parameters of a model, as a table of a few lines."""

from collections import defaultdict

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

HEADER = ("learning rate", "weight decay", "tensors", "values", "the first of them")


def group_table(
    optim_wrapper: OptimWrapper | OptimWrapperDict, model: nn.Module
) -> str:
    """Count the parameters of each base learning rate and weight decay.

    mmengine's constructor makes a group of every parameter, and logs a line or two of
    each: hundreds of lines that say the same.

    Args:
        optim_wrapper: of the model; several optimisers are counted together.
        model: in which the parameters have their names.

    Returns:
        str: A header, and one line for each pair of settings, the largest learning
        rate first.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrappers = [optim_wrapper]
    if isinstance(optim_wrapper, OptimWrapperDict):
        wrappers = [wrapper for _, wrapper in optim_wrapper.items()]
    found = defaultdict(list)
    for wrapper in wrappers:
        for group in wrapper.optimizer.param_groups:
            # Schedules that are built already keep here what they multiply.
            rate = group.get("initial_lr", group["lr"])
            settings = rate, group.get("weight_decay", 0)
            found[settings] += group["params"]
    rows = [
        (
            f"{rate:.3g}",
            f"{decay:.3g}",
            f"{len(parameters):,}",
            f"{sum(parameter.numel() for parameter in parameters):,}",
            names.get(id(parameters[0]), ""),
        )
        for (rate, decay), parameters in sorted(found.items(), reverse=True)
    ]
    widths = [max(map(len, column)) for column in zip(HEADER, *rows)]
    lines = [
        "  ".join([*(c.rjust(w) for c, w in zip(row[:-1], widths)), row[-1]])
        for row in (HEADER, *rows)
    ]
    return "\n".join(lines)
