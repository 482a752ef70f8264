"""The sizes of the family, and the check of a dict that describes another one."""

from collections.abc import Sequence
from math import inf
from numbers import Real

from ..utils.spelling import did_you_mean

ARCHITECTURES = {
    "mini": dict(
        embed_dims=64, depths=(3, 4, 6, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3
    ),
    "tiny": dict(
        embed_dims=64, depths=(3, 4, 18, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3
    ),
    "small": dict(
        embed_dims=96, depths=(3, 4, 18, 3), num_heads=(3, 6, 12, 24), mlp_ratio=2
    ),
    "base": dict(
        embed_dims=128, depths=(3, 4, 18, 3), num_heads=(4, 8, 16, 32), mlp_ratio=2
    ),
}


def resolve_architecture(arch: str | dict) -> dict:
    """Look a variant up or check a dict that describes one.

    Args:
        arch (str | dict): A name in :data:`ARCHITECTURES` or its first letter, in any
            case; or a dict with the keys of its values. ``depths`` and ``num_heads``
            hold as many numbers as there are stages.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(arch, str):
        by_letter = {name[0]: name for name in ARCHITECTURES}
        name = by_letter.get(arch.lower(), arch.lower())
        if name not in ARCHITECTURES:
            raise ValueError(
                f"arch must be one of {', '.join(ARCHITECTURES)}, a first letter of "
                f"these, or a dict, got {arch!r}{did_you_mean(arch, ARCHITECTURES)}"
            )
        return ARCHITECTURES[name]
    if not isinstance(arch, dict):
        raise ValueError(f"arch must be a name or a dict, got {arch!r}")
    keys = set(ARCHITECTURES["tiny"])
    if set(arch) != keys:
        raise ValueError(
            f"arch must have exactly the keys {sorted(keys)}, got {sorted(arch)}"
        )
    for key in ("depths", "num_heads"):
        if not isinstance(arch[key], list | tuple) or not arch[key]:
            raise ValueError(
                f"arch[{key!r}] must hold one number a stage, got {arch[key]!r}"
            )
        if not all(map(_is_positive_integer, arch[key])):
            raise ValueError(
                f"arch[{key!r}] must hold positive integers, got {arch[key]}"
            )
    if len(arch["depths"]) != len(arch["num_heads"]):
        raise ValueError(
            "arch['depths'] and arch['num_heads'] must hold one number a stage each, "
            f"got {arch['depths']} and {arch['num_heads']}"
        )
    if not _is_positive_integer(arch["embed_dims"]):
        raise ValueError(
            f"arch['embed_dims'] must be a positive integer, got {arch['embed_dims']!r}"
        )
    check_mlp_ratio(arch["mlp_ratio"], arch["embed_dims"])
    return arch


def check_mlp_ratio(mlp_ratio: float, embed_dims: int) -> None:
    """Refuse a ratio by which the MLP of ``embed_dims`` channels has no hidden one.

    Raises:
        ValueError: If it is no number, or too small, or infinite.
    """
    if not isinstance(mlp_ratio, Real) or not 1 <= mlp_ratio * embed_dims < inf:
        raise ValueError(
            "mlp_ratio must be a number that leaves the MLP a channel, got "
            f"{mlp_ratio!r}"
        )


def resolve_out_indices(
    out_indices: int | Sequence[int] | None, num_stages: int
) -> tuple[int, ...]:
    """Name the output stages from 0 on.

    Args:
        out_indices (int | Sequence[int] | None): Stages in rising order, or one;
            negative ones count from the last; None for all.
        num_stages (int): Number of stages.

    Raises:
        ValueError: If there is none, or one does not exist, or they do not rise.
    """
    if out_indices is None:
        return tuple(range(num_stages))
    given = [out_indices] if type(out_indices) is int else out_indices
    if isinstance(given, list | tuple) and all(type(index) is int for index in given):
        indices = [index + num_stages if index < 0 else index for index in given]
        if indices and indices == sorted(set(indices) & set(range(num_stages))):
            return tuple(indices)
    raise ValueError(
        f"out_indices must be rising numbers in 0..{num_stages - 1}, or counted from "
        f"the last stage in {-num_stages}..-1, got {out_indices}"
    )


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
