"""What SeT attention transports in one image, for looking at it.

Everything is computed in float64 by the reference implementation. Shapes: ``h`` heads,
``N`` tokens of a grid ``(H, W)``, ``M`` references a head for each way; steps are those
of docs/method.md. A way is "in", from tokens to references, or "back", from return
references to tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models import SeTAttention
from ..models.token_mixer import tokens_and_valid_shape
from ..ops import set_attention, transport_plan
from ..ops.positions import position_exponents

WAYS = "in", "back"


def has_transport(module: nn.Module) -> bool:
    """Whether :class:`Transport` tells what a module does.

    FirstSeTAttention and the like have the same parameters and mix otherwise.
    """
    return all(
        getattr(type(module), method, None) is getattr(SeTAttention, method)
        for method in ("forward", "project", "attend")
    )


class Transport:
    """What one attention transports in one image.

    Args:
        attention (SeTAttention): Its parameters and fields are used, and not changed.
        tokens (Tensor): Output of its ``project`` for one image, ``(H, W, C)``, any
            floating dtype.
        with_positions (bool): Whether its position weights, if it has any, take part.
        valid_shape (tuple[int, int], optional): Rows and columns of tokens that are no
            padding, the only ones that take part; None if all are.

    Attributes:
        grid_shape (tuple[int, int]): ``(H, W)``, padding included.
        spatial_shape (tuple[int, int]): Of the ``N`` tokens that take part.
        reference_shape (tuple[int, int]): Grid of the ``M`` references of either way.

    Raises:
        TypeError: If the attention mixes tokens in another way than SeTAttention.
    """

    def __init__(
        self,
        attention: SeTAttention,
        tokens: Tensor,
        with_positions: bool = True,
        valid_shape: tuple[int, int] | None = None,
    ) -> None:
        if not has_transport(attention):
            found = type(attention).__name__
            raise TypeError(f"attention must be SeTAttention, got {found}")
        self.attention = attention
        self.grid_shape = tuple(tokens.shape[:2])
        self.spatial_shape = rows, columns = valid_shape or self.grid_shape
        self.reference_shape = attention.reference_shape
        self._tokens = tokens.detach().double()
        self._tau = attention.tau if with_positions else None
        heads = attention.num_heads, attention.head_dim
        anchors, *references = (
            None if parameter is None else parameter.detach().double()
            for parameter in attention.folding_parameters()
        )
        self._arguments = dict(
            x=self._tokens[:rows, :columns].reshape(1, -1, *heads),
            anchors=anchors,
            references=references[0],
            return_references=references[1],
            spatial_shape=self.spatial_shape,
            reference_shape=self.reference_shape,
            epsilon=attention.epsilon,
            alpha=attention.alpha,
            tau=self._tau,
            backend="reference",
        )

    def without_positions(self) -> "Transport":
        """The same with all position weights 1: what content alone does."""
        return Transport(self.attention, self._tokens, False, self.spatial_shape)

    def without_content(self) -> "Transport":
        """The same with tokens that are all alike: what positions alone do.

        Every reference then scores all tokens equally, and either plan is
        ``1 / (N M)`` from the first Sinkhorn iteration on.
        """
        alike = torch.zeros_like(self._tokens)
        with_positions = self._tau is not None
        return Transport(self.attention, alike, with_positions, self.spatial_shape)

    def plan(self, way: str, num_iters: int | None = None) -> Tensor:
        """The transport plan ``T`` of a way before position weights (step 5).

        Args:
            way (str): "in" or "back".
            num_iters (int, optional): Sinkhorn iterations, at least 0; None for the
                attention's own.

        Returns:
            Tensor: ``(h, N, M)``, non-negative; rows sum to ``1 / N``.
        """
        if num_iters is None:
            return self._plans[way]
        return transport_plan(**self._arguments, way=way, num_iters=num_iters)[0]

    @cached_property
    def _plans(self) -> dict[str, Tensor]:
        """Those of the attention's own iterations, by their way."""
        return {way: self.plan(way, self.attention.num_iters) for way in WAYS}

    def output(self, num_iters: int | None = None) -> Tensor:
        """What the attention returns to the tokens (step 8), ``(N, h, K)``.

        Args:
            num_iters (int, optional): As for :meth:`plan`.
        """
        if num_iters is None:
            num_iters = self.attention.num_iters
        return set_attention(**self._arguments, num_iters=num_iters)[0]

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """``P`` and ``Q^T``, whose product is the attention matrix (steps 6 to 8).

        Returns:
            tuple[Tensor, Tensor]: ``P`` of shape ``(h, N, M)``, the plan of the way
            back with position weights and its rows divided by their sums; ``Q^T`` of
            shape ``(h, M, N)``, that of the way in with its columns divided by theirs,
            transposed. The rows of both are distributions.
        """
        way_in, way_back = map(self._log_weighted_plan, WAYS)
        return way_back.softmax(-1), way_in.softmax(-2).mT

    def _log_weighted_plan(self, way: str) -> Tensor:
        """``log(T * Pi)``, ``(h, N, M)``: no weight vanishes however small tau is."""
        plan = self.plan(way)
        log_weighted = plan.clamp_min(torch.finfo(plan.dtype).tiny).log()
        if self._tau is not None:
            rows, cols = position_exponents(
                self.spatial_shape,
                self.reference_shape,
                *plan.shape[-2:],
                self._tau,
                like=plan,
            )
            log_weighted += (rows[:, None] + cols).flatten(0, 1)
        return log_weighted

    def attention_rows(self, tokens: Sequence[int]) -> Tensor:
        """Rows of ``P Q^T``: what some tokens attend to. No ``N x N`` matrix is formed.

        Args:
            tokens (Sequence[int]): ``t`` numbers of tokens, row-major, in 0..N-1.

        Returns:
            Tensor: ``(h, t, N)``; each row is a distribution over the tokens.
        """
        to_tokens, from_tokens = self.factors
        return to_tokens[:, tokens] @ from_tokens

    def attention_columns(self, tokens: Sequence[int]) -> Tensor:
        """Columns of ``P Q^T``: what each token gets from some of them.

        Args:
            tokens (Sequence[int]): As for :meth:`attention_rows`.

        Returns:
            Tensor: ``(h, t, N)``, non-negative; entry ``i`` is what the row of token
            ``i`` has there.
        """
        to_tokens, from_tokens = self.factors
        return (to_tokens @ from_tokens[..., tokens]).mT

    def singular_values(self) -> Tensor:
        """Those of ``P Q^T`` that can differ from 0, ``(h, min(N, M))``, falling.

        With ``P = U R`` and ``Q = V S`` (QR decompositions) they are those of the
        ``M x M`` matrix ``R S^T``.
        """
        to_tokens, from_tokens = self.factors
        left = torch.linalg.qr(to_tokens, mode="r").R
        right = torch.linalg.qr(from_tokens.mT, mode="r").R
        return torch.linalg.svdvals(left @ right.mT)

    def convergence(
        self, iterations: Sequence[int], converged: int
    ) -> tuple[Tensor, Tensor]:
        """Follow Sinkhorn's algorithm.

        Args:
            iterations (Sequence[int]): ``n`` numbers of iterations, at least 0 each.
            converged (int): Iterations of the output ``o*`` to compare with.

        Returns:
            tuple[Tensor, Tensor]: Column sums of the plans in and back,
            ``(n, 2, h, M)``, and the distances ``|o - o*| / |o*|`` of the outputs,
            ``(n, h)``.
        """
        limit = self.output(converged)
        sums, distances = [], []
        for num_iters in iterations:
            plans = [self.plan(way, num_iters) for way in WAYS]
            sums.append(torch.stack(plans).sum(-2))
            distances.append((self.output(num_iters) - limit).norm(dim=(0, 2)))
        return torch.stack(sums), torch.stack(distances) / limit.norm(dim=(0, 2))


def marginal_violation(sums: Tensor) -> Tensor:
    """How far row or column sums of a plan are from being equal.

    Args:
        sums (Tensor): ``T 1`` or ``T^T 1``, ``(..., n)``.

    Returns:
        Tensor: ``|sums - 1/n|_1``, ``(...)``, in [0, 2) for a plan of mass 1.
    """
    return (sums - 1 / sums.shape[-1]).abs().sum(-1)


def effective_rank(singular_values: Tensor) -> Tensor:
    """How many singular values count: the exponential of the entropy of their shares.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO 2007.

    Args:
        singular_values (Tensor): ``(..., r)``, non-negative, not all 0.

    Returns:
        Tensor: ``(...)``, in [1, r]; r if all are equal.
    """
    shares = singular_values / singular_values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


class Recorded(NamedTuple):
    """What one attention has seen in one image.

    Attributes:
        attention: The module.
        tokens: Output of its ``project``, ``(H, W, C)``.
        valid_shape: Rows and columns of tokens that are no padding; None if all are.
    """

    attention: SeTAttention
    tokens: Tensor
    valid_shape: tuple[int, int] | None

    def transport(self) -> Transport:
        """What it transported."""
        return Transport(self.attention, self.tokens, valid_shape=self.valid_shape)


@contextmanager
def recording(
    attentions: Sequence[SeTAttention],
) -> Iterator[dict[SeTAttention, Recorded]]:
    """Keep what attentions see while a model that holds them runs on one image.

    Args:
        attentions (Sequence[SeTAttention]): Modules of the model.

    Yields:
        dict[SeTAttention, Recorded]: One an attention that has run.

    Raises:
        ValueError: From the run, if the model sees several images, or one in parts or
            several times, as with sliding windows.
    """
    seen = {}

    def keep(attention: SeTAttention, args: tuple, kwargs: dict, _: Tensor) -> None:
        x, valid_shape = tokens_and_valid_shape(args, kwargs)
        if attention in seen or len(x) != 1:
            raise ValueError("the model must look at one picture, as a whole and once")
        with torch.no_grad():
            tokens = attention.project(x, valid_shape)[0]
        valid = None if valid_shape is None else tuple(valid_shape[0].tolist())
        seen[attention] = Recorded(attention, tokens, valid)

    with ExitStack() as hooks:
        for attention in attentions:
            hook = attention.register_forward_hook(keep, with_kwargs=True)
            hooks.enter_context(hook)
        yield seen


@torch.no_grad()
def record_transports(
    backbone: nn.Module, attentions: Sequence[SeTAttention], image: Tensor
) -> list[Transport]:
    """Run a backbone on an image and look at what its attentions transport.

    Args:
        backbone (nn.Module): In eval mode.
        attentions (Sequence[SeTAttention]): Modules of the backbone, each run once.
        image (Tensor): ``(1, C, H, W)``, preprocessed.

    Returns:
        list[Transport]: One an attention.
    """
    with recording(attentions) as seen:
        backbone(image)
    return [seen[attention].transport() for attention in attentions]
