"""The attention slot of a block: what may stand in it, and how a config chooses.

:class:`~setformer_mm.models.SeTAttention` is what SeTformer is; the others in
:mod:`setformer_mm.models.mixers` are there to be compared with it at equal everything
else. ``attention=dict(type=...)`` of the backbone names one of them, or one that a user
has registered in :data:`TOKEN_MIXERS`.
"""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.spelling import did_you_mean
from .pointwise_linear import pointwise_linear


class TokenMixer(nn.Module):
    """Base class: takes tokens ``(B, H, W, C)`` to tokens of the same shape.

    A sequence of ``N`` tokens is a grid of one column, ``(B, N, 1, C)``. A subclass
    takes ``embed_dims`` (``C``) and ``num_heads`` first, and then fields of
    its own, which are those of ``attention=dict(type=..., field=...)``.

    Attributes:
        handles_padding (bool): Whether it can leave out what a batch pads: whether
            ``forward`` has a third argument ``valid_shape``, the valid rows and columns
            of each image, int64 of shape ``(B, 2)``, None if all are.
        handles_lengths (bool): The same for sequences, whose column is valid.
        is_two_dimensional (bool): Whether it is for pictures alone.
    """

    handles_padding = False
    handles_lengths = False
    is_two_dimensional = False

    @abstractmethod
    def forward(self, x: Tensor, prepared: Any = None) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Tokens of shape ``(B, H, W, C)``.
            prepared (Any): What :meth:`prepare` returned for this block.

        Returns:
            Tensor: Of the same shape.
        """

    @classmethod
    def prepare(cls, mixers: Sequence["TokenMixer"]) -> list:
        """Compute for all blocks of a stage at once what needs no tokens.

        Args:
            mixers (Sequence[TokenMixer]): Those of the stage, equal in all but their
                parameters.

        Returns:
            list: One entry a block.
        """
        return [None] * len(mixers)

    def switch_to_deploy(self) -> None:
        """Keep what depends on parameters alone, for compiled inference."""


def tokens_and_valid_shape(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
    """What a hook is given of a mixer's ``forward``, however its caller passed it."""
    given = dict(zip(("x", "prepared", "valid_shape"), args)) | kwargs
    return given["x"], given.get("valid_shape")


class TokenMixerRegistry:
    """Token mixers by name.

    It is used as mmengine's registries are; blocks must do without mmengine.

    Attributes:
        module_dict (dict[str, type[TokenMixer]]): What is registered.
    """

    def __init__(self) -> None:
        self.module_dict: dict[str, type[TokenMixer]] = {}

    def register_module(
        self, name: str | None = None, force: bool = False
    ) -> Callable[[type[TokenMixer]], type[TokenMixer]]:
        """Make a decorator that registers a class.

        Args:
            name (str, optional): That of the class by default.
            force (bool): Whether it may replace another one of that name.

        Returns:
            Callable: It raises KeyError if there is another one.
        """

        def register(mixer: type[TokenMixer]) -> type[TokenMixer]:
            key = name or mixer.__name__
            if key in self.module_dict and not force:
                raise KeyError(
                    f"there is a token mixer {key} already; register_module(force=True)"
                    " replaces it"
                )
            self.module_dict[key] = mixer
            return mixer

        return register

    def get(self, name: str) -> type[TokenMixer] | None:
        """Look a class up; None if there is none of that name."""
        return self.module_dict.get(name)


TOKEN_MIXERS = TokenMixerRegistry()


class QueryKeyValueMixer(TokenMixer):
    """Projections to queries, keys and values a head, and back; a subclass mixes.

    If it ``handles_lengths``, its :meth:`mix` takes them as a fifth argument.

    Args:
        embed_dims (int): Channels ``C``, divisible by ``num_heads``.
        num_heads (int): Heads ``h``; each has ``D = C / h`` channels.
        one_projection (bool): Whether queries, keys and values are the same, as in SeT
            attention, whose tokens pass through one projection.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, one_projection: bool = False
    ) -> None:
        super().__init__()
        require_divisible(embed_dims, num_heads)
        require_bool(one_projection=one_projection)
        self.num_heads = num_heads
        self.num_projections = 1 if one_projection else 3
        self.qkv_proj = nn.Linear(embed_dims, self.num_projections * embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    @abstractmethod
    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, spatial_shape: tuple[int, int]
    ) -> Tensor:
        """Mix values.

        Args:
            q (Tensor): Queries of shape ``(B, h, N, D)``, row-major.
            k (Tensor): Keys, likewise.
            v (Tensor): Values, likewise.
            spatial_shape (tuple[int, int]): Grid ``(H, W)`` of the tokens.

        Returns:
            Tensor: Of the same shape.
        """

    def forward(
        self, x: Tensor, prepared: Any = None, valid_shape: Tensor | None = None
    ) -> Tensor:
        projected = pointwise_linear(self.qkv_proj, x)
        projected = split_heads(projected, self.num_projections, self.num_heads)
        q, k, v = projected.expand(3, *projected.shape[1:])
        lengths = () if valid_shape is None else (valid_shape[:, 0],)
        mixed = self.mix(q, k, v, x.shape[1:3], *lengths)
        return self.finish(merge_heads(mixed, x.shape), x)

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Project mixed values ``(B, H, W, C)``; ``x`` are the tokens they are of."""
        return pointwise_linear(self.out_proj, mixed)

    def extra_repr(self) -> str:
        return f"num_projections={self.num_projections}"


def require_divisible(embed_dims: int, num_heads: int) -> None:
    """Refuse channels that cannot be split evenly."""
    if embed_dims % num_heads:
        raise ValueError(
            "embed_dims must be divisible by num_heads, "
            f"got {embed_dims} and {num_heads}"
        )


def require_bool(**fields: bool) -> None:
    """Refuse what is no truth value: of texts, all but the empty one would be true."""
    for name, value in fields.items():
        if type(value) is not bool:
            raise ValueError(f"{name} must be True or False, got {value!r}")


def require_positive_integer(**fields: int) -> None:
    """Refuse what counts nothing."""
    for name, value in fields.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def split_heads(x: Tensor, parts: int, num_heads: int) -> Tensor:
    """Take ``(B, H, W, parts * C)`` to ``(parts, B, h, N, D)``."""
    return x.flatten(1, 2).unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)


def merge_heads(x: Tensor, shape: torch.Size) -> Tensor:
    """Take ``(B, h, N, D)`` to ``(B, H, W, C)``."""
    return x.transpose(1, 2).reshape(shape)


def pad_to_multiples(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Pad ``(..., H, W)`` with zeros, at the lower right, to multiples of ``sides``."""
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, -width % sides[1], 0, -height % sides[0]))


def valid_tokens(lengths: Tensor, count: int) -> Tensor:
    """Which of ``count`` tokens belong to a sequence, as values of heads lie.

    Args:
        lengths (Tensor): Tokens of each sequence, of shape ``(B,)``.
        count (int): ``N``.

    Returns:
        Tensor: Bool of shape ``(B, 1, N, 1)``.
    """
    places = torch.arange(count, device=lengths.device)
    return (places < lengths[:, None])[:, None, :, None]


def divisors(lengths: Tensor) -> Tensor:
    """Lengths ``(B, 1, 1, 1)`` to divide by: that of an empty sequence is 1."""
    return lengths.clamp(min=1)[:, None, None, None]


def softmax_of_tokens(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Softmax of scores ``(B, h, N, 1)`` over the tokens of each sequence.

    Args:
        scores (Tensor): At least float32.
        valid (Tensor | None): See :func:`valid_tokens`; None if all are.

    Returns:
        Tensor: 0 outside; something finite for a sequence without tokens.
    """
    if valid is not None:
        scores = scores.where(valid, torch.finfo(scores.dtype).min)
    return scores.softmax(-2)


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """Sums over all tokens would round away most of a 16-bit number."""
    return [x.float() if x.dtype.itemsize < 4 else x for x in tensors]


def build_token_mixer(attention: dict, embed_dims: int, num_heads: int) -> TokenMixer:
    """Build what ``attention=dict(type=..., **fields)`` describes.

    Args:
        attention (dict): ``type``, a name in :data:`TOKEN_MIXERS` or a class, and its
            fields.
        embed_dims (int): Channels.
        num_heads (int): Heads.

    Raises:
        ValueError: If there is no mixer of that name, or it has no such field.
    """
    fields = dict(attention)
    mixer = _find_mixer(fields.pop("type"))
    parameters = list(inspect.signature(mixer).parameters.values())[2:]
    known = [parameter.name for parameter in parameters]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    unknown = [name for name in fields if name not in known and not takes_any]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ValueError(
            f"{mixer.__name__} has the fields {', '.join(known) or 'none'}, got "
            f"{unknown[0]!r}{hint} in attention={dict(attention)}"
        )
    try:
        return mixer(embed_dims, num_heads, **fields)
    except TypeError as error:  # Python's message names class and field
        raise ValueError(
            f"attention={dict(attention)} is not possible: {error}"
        ) from error


def spread_over_stages(attention: dict, num_stages: int) -> list[dict]:
    """Give each stage its fields.

    Args:
        attention (dict): ``type`` and fields; a list or tuple of ``num_stages`` is one
            value a stage, anything else holds for all. Of a field that is a pair or
            the like by itself, as a grid, only a list of such is one a stage.
        num_stages (int): Number of stages.

    Returns:
        list[dict]: One a stage.

    Raises:
        ValueError: If there is no mixer of that name.
    """
    kind = attention["type"]
    kinds = kind if _is_list_of(num_stages, kind) else [kind] * num_stages
    return [
        {
            name: value[i] if _is_one_a_stage(name, value, mixer, num_stages) else value
            for name, value in attention.items()
        }
        for i, mixer in enumerate(map(_find_mixer, kinds))
    ]


def _is_list_of(count: int, value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == count


def _is_one_a_stage(name: str, value: object, mixer: type, num_stages: int) -> bool:
    if not _is_list_of(num_stages, value):
        return False
    parameter = inspect.signature(mixer).parameters.get(name)
    is_list_itself = parameter and isinstance(parameter.default, tuple)
    return not is_list_itself or all(isinstance(each, list | tuple) for each in value)


def _find_mixer(kind: str | type) -> type[TokenMixer]:
    mixer = TOKEN_MIXERS.get(kind) if isinstance(kind, str) else kind
    if not callable(mixer):
        known = ", ".join(TOKEN_MIXERS.module_dict)
        hint = did_you_mean(kind, TOKEN_MIXERS.module_dict)
        raise ValueError(
            f"the type of attention must be one of {known}, got {kind!r}{hint}"
        )
    return mixer
