"""SeT attention as a module: projections, anchors, references, and the cached fold."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import Folded, NonFiniteError, check_fields, fold, set_attention_folded
from ..ops.valid import is_traced
from ..utils.errors import UnfitWeightsError
from ..utils.logs import print_log
from .padding import without_mean
from .pointwise_linear import pointwise_linear
from .token_mixer import TOKEN_MIXERS, TokenMixer, require_bool, require_divisible


@TOKEN_MIXERS.register_module()
class SeTAttention(TokenMixer):
    """Multi-head SeT attention over a grid of tokens, or over sequences.

    Args:
        embed_dims (int): Channels ``C``, divisible by ``num_heads``.
        num_heads (int): Heads ``h``; each has ``D = C / h`` channels and as many
            anchors.
        reference_shape (tuple[int, ...]): Grid of references ``(r_h, r_w)`` a head; for
            sequences ``(M,)``, references in a row.
        return_references (bool): Whether the way back to the tokens has references of
            its own; False takes the same ones both ways.
        epsilon (float): Entropic regularisation.
        num_iters (int): Sinkhorn iterations.
        alpha (float): Inverse squared bandwidth of the kernel.
        tau (float, optional): Width of the position weights; None switches them off.
        backend (str): See :func:`setformer_mm.ops.set_attention`, as for the four
            arguments before.
        centred (bool): Whether the mean of the image's tokens is taken off them first,
            so that the kernel, which sees directions alone, compares what tells tokens
            apart and not what all of them have in common. What is added to all tokens,
            as the bias of a norm before, then changes nothing, and of a token that is
            alone on its grid nothing is left.

    Attributes:
        anchors (nn.Parameter): Of shape ``(h, D, D)``.
        references (nn.Parameter): Of shape ``(h, r_h * r_w, D)``, row-major, or
            ``(h, M, D)``.
        return_references (nn.Parameter | None): Those of the way back, likewise; None
            for the same ones both ways.
    """

    handles_padding = True
    handles_lengths = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reference_shape: tuple[int, ...] = (4, 4),
        return_references: bool = True,
        epsilon: float = 0.01,
        num_iters: int = 1,
        alpha: float = 2.0,
        tau: float | None = 0.5,
        backend: str = "auto",
        centred: bool = True,
    ) -> None:
        super().__init__()
        require_divisible(embed_dims, num_heads)
        _check_grid(reference_shape)
        check_fields(epsilon, num_iters, alpha, tau, backend)
        require_bool(return_references=return_references, centred=centred)
        self.num_heads = num_heads
        self.head_dim = embed_dims // num_heads
        self.reference_shape = tuple(reference_shape)
        self.epsilon = epsilon
        self.num_iters = num_iters
        self.alpha = alpha
        self.tau = tau
        self.backend = backend
        self.centred = centred
        self.in_proj = nn.Linear(embed_dims, embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        num_references = math.prod(self.reference_shape)
        self.anchors = self._random_directions(self.head_dim)
        self.references = self._random_directions(num_references)
        self.return_references = (
            self._random_directions(num_references) if return_references else None
        )
        self._cached_fold: _CachedFold | None = None
        self._deployed_fold: Folded | None = None

    @property
    def is_two_dimensional(self) -> bool:
        """Whether its references lie on a grid, for pictures."""
        return len(self.reference_shape) == 2

    def _random_directions(self, count: int) -> nn.Parameter:
        directions = torch.empty(self.num_heads, count, self.head_dim)
        return nn.Parameter(init_directions(directions))

    @classmethod
    def prepare(cls, mixers: Sequence["SeTAttention"]) -> list[Folded]:
        """Fold the blocks of a stage at once: one decomposition of all their matrices
        takes a fraction of the launches, and on an accelerator of the time, of one a
        block.
        """
        kind = mixers[0].kind_of_fold()
        if not all(a.folds_anew() and a.kind_of_fold() == kind for a in mixers):
            maps_of_blocks = []
            for block, attention in enumerate(mixers):
                with _block_named(block):
                    maps_of_blocks.append(attention.folded())
            return maps_of_blocks
        of_blocks = zip(*(attention.folding_parameters() for attention in mixers))
        parameters = [None if p[0] is None else torch.cat(p) for p in of_blocks]
        with _block_named(0, mixers[0].num_heads):
            *maps, alpha = fold(*parameters, mixers[0].alpha)
        maps_of_blocks = zip(*(m.chunk(len(mixers)) for m in maps))
        return [Folded(*block_maps, alpha) for block_maps in maps_of_blocks]

    def forward(
        self,
        x: Tensor,
        prepared: Folded | None = None,
        valid_shape: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x (Tensor): Tokens of shape ``(B, H, W, C)``; of sequences ``(B, N, 1, C)``.
            prepared (Folded, optional): What :meth:`folded` would return, if it has
                been computed together with other blocks'.
            valid_shape (Tensor, optional): Valid rows and columns of each image, int64
                of shape ``(B, 2)``; None if all are.

        Returns:
            Tensor: Of the same shape.

        Raises:
            ValueError: If a grid comes to references for sequences.
        """
        batch, height, width, _ = x.shape
        tokens = self.project(x, valid_shape).view(
            batch, height * width, self.num_heads, self.head_dim
        )
        folded = self.folded() if prepared is None else prepared
        out = self.attend(tokens, folded, (height, width), valid_shape)
        return pointwise_linear(self.out_proj, out.reshape(x.shape))

    def project(self, x: Tensor, valid_shape: Tensor | None = None) -> Tensor:
        """What the kernel sees of the tokens (docs/method.md, step 1).

        Args:
            x (Tensor): Tokens of shape ``(B, H, W, C)``.
            valid_shape (Tensor | None): See :meth:`forward`.

        Returns:
            Tensor: Of the same shape.
        """
        return pointwise_linear(self.in_proj, self.centre(x, valid_shape))

    def centre(self, x: Tensor, valid_shape: Tensor | None = None) -> Tensor:
        """Take the mean off, if ``centred``; arguments as for :meth:`project`."""
        return without_mean(x, valid_shape) if self.centred else x

    def attend(
        self,
        tokens: Tensor,
        folded: Folded,
        spatial_shape: tuple[int, int],
        valid_shape: Tensor | None,
    ) -> Tensor:
        """What happens between the projections.

        Args:
            tokens (Tensor): Of shape ``(B, N, h, D)``.
            folded (Folded): What :meth:`folded` returned.
            spatial_shape (tuple[int, int]): Grid of the tokens.
            valid_shape (Tensor | None): See :meth:`forward`.

        Returns:
            Tensor: Of the same shape.
        """
        return set_attention_folded(
            tokens,
            folded,
            **self._geometry(spatial_shape, valid_shape),
            epsilon=self.epsilon,
            num_iters=self.num_iters,
            tau=self.tau,
            backend=self.backend,
        )

    def _geometry(
        self, spatial_shape: tuple[int, int], valid_shape: Tensor | None
    ) -> dict:
        """What the operator is told of places, on a grid or along a sequence."""
        if self.is_two_dimensional:
            return dict(
                spatial_shape=spatial_shape,
                reference_shape=self.reference_shape,
                valid_shape=valid_shape,
            )
        if spatial_shape[1] != 1:
            raise ValueError(
                f"reference_shape={self.reference_shape} is for sequences "
                f"(B, N, 1, C), got a grid of {tuple(spatial_shape)}; name two sides "
                "(r_h, r_w)"
            )
        return dict(lengths=None if valid_shape is None else valid_shape[:, 0])

    def folded(self) -> Folded:
        """Fold the parameters; from the cache in eval mode without gradients."""
        deployed = self._deployed_fold
        if deployed is not None:
            return deployed
        if self.folds_anew():
            self.drop_fold()
            return fold(*self.folding_parameters(), self.alpha)
        # Read once: another thread that runs the same model may set it anew.
        cached = self._cached_fold
        if cached is None or not cached.is_valid(self):
            cached = self._cached_fold = _CachedFold(self)
        return cached.folded

    def folding_parameters(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What :func:`setformer_mm.ops.fold` takes before alpha."""
        return self.anchors, self.references, self.return_references

    def kind_of_fold(self) -> tuple:
        """What blocks must have in common to be folded together."""
        parts = self.folding_parameters()
        return self.alpha, *(
            p if p is None else (p.shape, p.dtype, p.device) for p in parts
        )

    def folds_anew(self) -> bool:
        """Whether each forward pass folds the parameters again.

        A graph cannot tell whether parameters are still the same.
        """
        return self._deployed_fold is None and (
            self.training or torch.is_grad_enabled() or is_traced()
        )

    def drop_fold(self) -> None:
        """Forget the cached fold.

        Needed by hand in one case alone: the parameters of a model on an accelerator,
        in eval mode, were overwritten through ``.data``, and neither ``eval()`` nor
        ``train()`` followed.
        """
        self._cached_fold = None

    def switch_to_deploy(self) -> None:
        """Keep the fold of the present parameters for good, gradients or not.

        For inference with ``torch.compile`` and in exported graphs, which would fold in
        each forward pass, and for ONNX, which cannot.
        ``train()`` and loading a checkpoint undo it.
        """
        # Tensors made in inference mode could not take part in a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            self._deployed_fold = fold(*self.folding_parameters(), self.alpha)

    def train(self, mode: bool = True) -> "SeTAttention":
        """Set the mode and drop the fold: an EMA swaps weights before such a call."""
        self.drop_fold()
        if mode:
            self._deployed_fold = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        """Move or cast, and fold the moved parameters."""
        self.drop_fold()
        super()._apply(*args, **kwargs)
        if self._deployed_fold is not None:
            self.switch_to_deploy()
        return self

    def get_extra_state(self) -> Tensor:
        """What weights must be used with and do not tell: a row with the grid of
        references, and one that is all 1 if tokens are centred, and all 0 if not.

        It stands with the weights, as a tensor, and so goes wherever they go.
        """
        centred = [int(self.centred)] * len(self.reference_shape)
        return torch.tensor([self.reference_shape, centred], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Do nothing: what it says was heeded before the weights were loaded."""

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load, resampling references that come from another grid."""
        self.drop_fold()
        self._deployed_fold = None
        stored = state_dict.setdefault(prefix + "_extra_state", None)
        if prefix + "references" in state_dict:
            self._require_as_trained(stored, prefix)
        grid = stored[0] if _has_two_rows(stored) else stored
        shapes = set()
        for name in ("references", "return_references"):
            key = prefix + name
            loaded, own = state_dict.get(key), getattr(self, name)
            if loaded is None or own is None or loaded.ndim != own.ndim:
                continue  # missing, unexpected, of another shape: torch reports it
            shape = self._grid_of(loaded, grid, key)
            if shape != self.reference_shape:
                state_dict[key] = self._resample(loaded, shape)
                shapes.add(shape)
        for shape in shapes:
            print_log(
                f"{prefix}references resampled from {_by(shape)} to "
                f"{_by(self.reference_shape)}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _require_as_trained(self, stored: Tensor | None, prefix: str) -> None:
        """Refuse weights that were trained with the other value of ``centred``.

        Those from before there was a choice were trained without.
        """
        centred = False
        if _has_two_rows(stored):
            centred = bool(stored[1].any())
            if not torch.equal(stored[1], torch.full_like(stored[1], centred)):
                raise UnfitWeightsError(
                    f"{prefix}_extra_state must be a grid over ones or zeros, got "
                    f"{stored.tolist()}"
                )
        if centred != self.centred:
            raise UnfitWeightsError(
                f"{prefix.rstrip('.') or 'attention'} must have centred={centred}, as "
                f"when its weights were trained, got centred={self.centred}: give "
                f"attention=dict(centred={centred}), or a list of one value a stage"
            )

    def _grid_of(
        self, references: Tensor, stored: Tensor | None, name: str
    ) -> tuple[int, ...]:
        """Find the grid that loaded references lie on.

        Weights from before it was stored lie on this module's own if that has as many
        cells, and else on a square one; those of sequences lie in a row.
        """
        count = references.shape[1]
        side = math.isqrt(count)
        if is_stored := isinstance(stored, Tensor) and stored.dtype == torch.int64:
            shape = tuple(stored.flatten().tolist())
        elif count == math.prod(self.reference_shape):
            shape = self.reference_shape
        elif self.is_two_dimensional:
            shape = side, side
        else:
            shape = (count,)
        sides = len(self.reference_shape)
        if len(shape) != sides or min(shape) < 1 or math.prod(shape) != count:
            of_grid = f"the grid {shape}" if is_stored else "a square grid"
            raise UnfitWeightsError(
                f"{name} must come from {of_grid} to be resampled to "
                f"{self.reference_shape}, got {count} references; load it with the "
                "reference_shape it was trained with"
            )
        return shape

    def _resample(self, references: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Interpolate references linearly from a grid to this module's own."""
        mode = "bilinear" if self.is_two_dimensional else "linear"
        grid = references.float().unflatten(1, shape).movedim(-1, 1)
        grid = F.interpolate(grid, self.reference_shape, mode=mode)
        return grid.movedim(1, -1).flatten(1, -2).to(references.dtype)

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, reference_shape={self.reference_shape}, "
            f"return_references={self.return_references is not None}, "
            f"epsilon={self.epsilon}, num_iters={self.num_iters}, alpha={self.alpha}, "
            f"tau={self.tau}, backend={self.backend!r}, centred={self.centred}"
        )


@torch.no_grad()
def init_directions(vectors: Tensor) -> Tensor:
    """Draw vectors ``(..., D)`` anew, in place, evenly on the unit sphere."""
    return vectors.copy_(F.normalize(vectors.normal_(), dim=-1))


@contextmanager
def _block_named(first: int, heads_a_block: int | None = None) -> Iterator[None]:
    """Say in an error of the fold which block it is of, from ``first`` on."""
    try:
        yield
    except NonFiniteError as error:
        block, head = divmod(error.head, heads_a_block or error.head + 1)
        what = f"{error.what} of block {first + block}"
        raise NonFiniteError(what, head) from error


def _check_grid(shape: tuple[int, ...]) -> None:
    has_sides = isinstance(shape, (list, tuple)) and len(shape) in (1, 2)
    if not has_sides or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            "reference_shape must be a pair of positive integers, or for sequences "
            f"(M,), got {shape}"
        )


def _has_two_rows(stored: Tensor | None) -> bool:
    """Whether a stored state says more than the grid, which once stood alone."""
    return isinstance(stored, Tensor) and stored.dim() == 2 and len(stored) == 2


def _by(shape: tuple[int, ...]) -> str:
    """A grid in words, as 4x4."""
    return "x".join(map(str, shape))


class _CachedFold:
    """A fold together with what tells whether the parameters are still the same.

    Version counters see every in-place change but those through ``.data``, which is how
    mmengine's EMAHook swaps weights. On the CPU the values are compared, too; on an
    accelerator that would wait for the device in every block.
    """

    def __init__(self, attention: SeTAttention) -> None:
        parameters = attention.folding_parameters()
        self.folded = fold(*parameters, attention.alpha)
        self._identities = [self._identity(p) for p in parameters]
        self._values = [
            p.clone() if p is not None and p.device.type == "cpu" else None
            for p in parameters
        ]

    @staticmethod
    def _identity(parameter: Tensor | None) -> tuple | None:
        if parameter is None:
            return None
        version = 0 if parameter.is_inference() else parameter._version
        return parameter.data_ptr(), version, parameter.dtype, parameter.device

    def is_valid(self, attention: SeTAttention) -> bool:
        parameters = attention.folding_parameters()
        return self.folded.alpha == attention.alpha and all(
            self._identity(p) == identity and (value is None or torch.equal(p, value))
            for p, identity, value in zip(parameters, self._identities, self._values)
        )
