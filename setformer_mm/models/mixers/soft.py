"""SOFT: softmax-free attention, a Gaussian kernel matrix of low rank."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...ops.autocast import without_autocast
from ..pointwise_linear import pointwise_linear
from ..token_mixer import (
    TOKEN_MIXERS,
    TokenMixer,
    at_least_float32,
    merge_heads,
    pad_to_multiples,
    require_bool,
    require_divisible,
    require_positive_integer,
    split_heads,
)

# Added to the landmarks' kernel matrix, here in both versions; in the authors' code in
# the one that is not normalised.
RIDGE = 0.01
NUM_ITERS = 20


def gaussian_kernel(a: Tensor, b: Tensor) -> Tensor:
    """``exp(-|a - b|^2 / (2 sqrt(D)))``.

    Args:
        a (Tensor): Of shape ``(..., n, D)``.
        b (Tensor): Of shape ``(..., m, D)``.

    Returns:
        Tensor: Of shape ``(..., n, m)``, in (0, 1].
    """
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    # Rounding may leave a distance a little below 0.
    distances = (squares - 2 * a @ b.mT).clamp(min=0)
    return torch.exp(distances / (-2 * math.sqrt(a.shape[-1])))


class NewtonInverse(torch.autograd.Function):
    """Inverse of symmetric positive definite matrices by Newton-Raphson's iteration.

    Forward: ``X <- 2 X - X P X``, without a record of the steps. Backward, in closed
    form: ``dP = -X^T dX X^T``.

    The authors start from ``1.8 P / |P|_1^2``, or in the normalised version from a
    multiple of ``P`` that they search for; for a positive definite ``P`` the start
    ``I / |P|_1`` converges as well, with an error ``(1 - lambda / |P|_1)^(2^steps)``
    instead of ``(1 - 1.8 lambda^2 / |P|_1^2)^(2^steps)``, which is about half of the
    steps where eigenvalues ``lambda`` are small.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor, num_iters: int) -> Tensor:
        """Invert.

        Args:
            ctx: Of autograd.
            matrix (Tensor): Of shape ``(..., m, m)``.
            num_iters (int): Number of iterations.

        Returns:
            Tensor: Of the same shape.
        """
        norm = matrix.abs().sum(-1).amax(-1)[..., None, None]
        inverse = torch.eye(matrix.shape[-1]).to(matrix) / norm
        for _ in range(num_iters):
            inverse = 2 * inverse - inverse @ matrix @ inverse
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (inverse,) = ctx.saved_tensors
        return -inverse.mT @ gradient @ inverse.mT, None


def soft_attention(
    q: Tensor,
    landmarks: Tensor,
    v: Tensor,
    normalise: bool,
    num_iters: int = NUM_ITERS,
) -> Tensor:
    """``O = S(Q, L) X S(L, Q) V``, ``X = (S(L, L) + ridge)^-1``, ``S`` the kernel.

    Args:
        q (Tensor): Queries, which are the keys as well, of shape ``(B, h, N, D)``.
        landmarks (Tensor): ``L``, of shape ``(B, h, m, D)``.
        v (Tensor): Values of shape ``(B, h, N, D)``.
        normalise (bool): ``X -> D^(-1/2) X D^(-1/2)`` with ``D`` the row sums of
            ``S(L, L)``, the later version.
        num_iters (int): Iterations of the inverse.

    Returns:
        Tensor: Of shape ``(B, h, N, D)``.
    """
    to_landmarks = gaussian_kernel(q, landmarks)
    among = gaussian_kernel(landmarks, landmarks)
    ridge = RIDGE * torch.eye(among.shape[-1]).to(among)
    inverse = NewtonInverse.apply(among + ridge, num_iters)
    if normalise:
        scale = among.sum(-1, keepdim=True).rsqrt()
        inverse = scale * inverse * scale.mT
    return to_landmarks @ (inverse @ (to_landmarks.mT @ v))


@TOKEN_MIXERS.register_module()
class SOFTAttention(TokenMixer):
    """Gaussian kernel attention through landmarks from a strided convolution.

    "Softmax-free Linear Transformers", arXiv 2207.03341 (first version "SOFT",
    arXiv 2110.11945): queries and keys are the same, their kernel matrix is replaced by
    its Nystrom approximation. It is linear in the tokens for a given number of
    landmarks, which with a given stride grows with the grid. The depthwise convolution
    of values that the authors add is left out: it would not be the mixer's own. Unlike
    in their code, where queries alone are divided by ``D^(1/4)`` and landmarks are
    normalised after that, the kernel here scales both. Their stages of stride 1 do
    without the approximation, and their last one has softmax attention; here all stages
    are alike.

    Args:
        embed_dims (int): Channels ``C``, divisible by ``num_heads``.
        num_heads (int): Heads.
        landmark_stride (int): Kernel size and stride of the convolution that makes
            landmarks, shared by the heads; grids are padded with zeros to a multiple.
            With 1 every token has a landmark, and the cost is cubic.
        normalise (bool): The later version, which normalises symmetrically so that
            the output does not grow with the number of tokens as fast.
        num_iters (int): Newton-Raphson's iterations.
    """

    is_two_dimensional = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        landmark_stride: int = 1,
        normalise: bool = False,
        num_iters: int = NUM_ITERS,
    ) -> None:
        super().__init__()
        require_divisible(embed_dims, num_heads)
        require_positive_integer(landmark_stride=landmark_stride, num_iters=num_iters)
        require_bool(normalise=normalise)
        head_dim = embed_dims // num_heads
        self.num_heads = num_heads
        self.normalise = normalise
        self.num_iters = num_iters
        self.in_proj = nn.Linear(embed_dims, 2 * embed_dims)
        self.landmark_conv = nn.Conv2d(
            head_dim, head_dim, landmark_stride, stride=landmark_stride, bias=False
        )
        self.landmark_norm = nn.LayerNorm(head_dim)
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    def landmarks(self, q: Tensor, spatial_shape: tuple[int, int]) -> Tensor:
        """Take queries ``(B, h, N, D)`` to landmarks ``(B, h, m, D)``."""
        stride = self.landmark_conv.stride[0]
        maps = q.mT.flatten(0, 1).unflatten(2, spatial_shape)
        maps = pad_to_multiples(maps, (stride, stride))
        tokens = self.landmark_conv(maps).flatten(2).mT.unflatten(0, q.shape[:2])
        return F.gelu(self.landmark_norm(tokens))

    def forward(self, x: Tensor, prepared: Any = None) -> Tensor:
        q, v = split_heads(pointwise_linear(self.in_proj, x), 2, self.num_heads)
        landmarks = self.landmarks(q, x.shape[1:3])
        with without_autocast(x):
            out = soft_attention(
                *at_least_float32(q, landmarks, v), self.normalise, self.num_iters
            )
        return pointwise_linear(self.out_proj, merge_heads(out.to(q.dtype), x.shape))

    def extra_repr(self) -> str:
        return f"normalise={self.normalise}, num_iters={self.num_iters}"
