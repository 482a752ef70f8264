"""The part of SeT attention that depends on parameters alone.

Anchors ``z`` and references, ``y`` for the way in and ``w`` for the way back, enter the
operator only through three small maps. Computing these once, outside the work over
tokens, keeps every ``N x K x K`` product out of the operator, and is what a backbone
caches in evaluation.
"""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .autocast import without_autocast
from .kernel import gaussian_kernel, unit_vectors

_NOT_IN_ONNX = (
    "ONNX has no eigendecomposition for the fold of anchors and references: call the "
    "model's switch_to_deploy() before the export, or use tools/export.py"
)


class Folded(NamedTuple):
    """What the operator needs of its parameters (``h`` heads, ``K`` anchors, ``M``
    references, head dimension ``D``).

    Attributes:
        anchors (Tensor): Anchors on the unit sphere, of shape ``(h, K, D)``.
        score_maps (Tensor): ``k(z, z)^-1 [k(z, y), k(z, w)]``, of shape
            ``(h, K, 2 M)``: takes the kernel features ``k(x, z)`` of a token to its
            scores on the way in, in the first ``M`` columns, and on the way back.
        value_map (Tensor): ``k(z, z)^-1/2``, of shape ``(h, K, K)``: takes kernel
            features to the Nystrom embedding.
        alpha (float): Inverse squared bandwidth of the kernel the maps belong to.
    """

    anchors: Tensor
    score_maps: Tensor
    value_map: Tensor
    alpha: float

    @property
    def num_references(self) -> int:
        """``M``, of each way."""
        return self.score_maps.shape[-1] // 2

    def to(self, dtype: torch.dtype) -> "Folded":
        """Cast the three maps; returns ``self``'s tensors where nothing changes."""
        # Torch 2.8 cannot compile a slice of a named tuple.
        maps = self.anchors, self.score_maps, self.value_map
        return Folded(*(t.to(dtype) for t in maps), self.alpha)


class NonFiniteError(ValueError):
    """Anchors or references hold NaN or infinity.

    Attributes:
        what (str): Which parameter it is.
        head (int): The first head of it that is concerned.
    """

    def __init__(self, what: str, head: int) -> None:
        super().__init__(what, head)
        self.what = what
        self.head = head

    def __str__(self) -> str:
        return f"{self.what} must be finite, got NaN or infinity in head {self.head}"


def fold(
    anchors: Tensor,
    references: Tensor,
    return_references: Tensor | None,
    alpha: float,
) -> Folded:
    """Fold anchors and references into the maps that the operator applies to tokens.

    ``k(z, z)`` is inverted with a ridge of ``1e-5`` (method, step 3). Everything is
    computed in float64 whatever the dtype of the parameters, and differentiable twice
    with respect to all of them, coinciding eigenvalues included.

    Args:
        anchors (Tensor): Of shape ``(h, K, D)``, any floating dtype, any norm.
        references (Tensor): Of shape ``(h, M, D)``, likewise.
        return_references (Tensor | None): Of the same shape; None for the same set both
            ways.
        alpha (float): Inverse squared bandwidth of the kernel, positive.

    Returns:
        Folded: The three maps in float64.

    Raises:
        NonFiniteError: If anchors or references are not finite, as after a diverged
            training step. Neither a compiled graph nor a training on an accelerator,
            which would have to wait for its values, is stopped so: there maps of NaN
            come out.
        RuntimeError: If torch.onnx.export is under way: ONNX cannot express it.
    """
    if torch.onnx.is_in_onnx_export():
        # The exporter tries another way then, and fails without a word of this.
        warnings.warn(_NOT_IN_ONNX, stacklevel=2)
        raise RuntimeError(_NOT_IN_ONNX)
    _require_finite(anchors, references, return_references)
    with without_autocast(anchors):
        anchors, _ = unit_vectors(anchors.double())
        kernel_of_anchors = gaussian_kernel(anchors, anchors, alpha)
        value_map, _, _ = _InverseSquareRoot.apply(kernel_of_anchors)

        def map_to(references: Tensor) -> Tensor:
            references, _ = unit_vectors(references.double())
            kernel = gaussian_kernel(anchors, references, alpha)
            return value_map @ (value_map @ kernel)

        way_in = map_to(references)
        way_back = way_in if return_references is None else map_to(return_references)
    return Folded(anchors, torch.cat([way_in, way_back], -1), value_map, alpha)


def _require_finite(*parameters: Tensor | None) -> None:
    """Name the first head with NaN or infinity.

    LAPACK does not: of 26 and more anchors its eigenvalues are NaN without an error.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    names = ("anchors", "references", "return_references")
    for name, parameter in zip(names, parameters):
        if parameter is None:
            continue
        if parameter.device.type != "cpu" and torch.is_grad_enabled():
            continue
        try:
            if math.isfinite(parameter.detach().sum()):  # one pass, no mask
                continue
        except RuntimeError:  # no values: shapes alone (meta, fake), or under vmap
            return
        is_finite = parameter.isfinite().flatten(1).all(1).tolist()
        if not all(is_finite):
            raise NonFiniteError(name, is_finite.index(False))


class _InverseSquareRoot(torch.autograd.Function):
    """``(A + ridge I)^-1/2`` of symmetric positive semi-definite matrices, and the
    decomposition that it is made from: ``s = sqrt(l + ridge)`` and ``V``, where
    ``A = V diag(l) V^T``.

    The gradient of ``torch.linalg.eigh`` divides by differences of eigenvalues and is
    NaN where two coincide. The divided differences of ``l -> 1 / s`` have the closed
    form ``-1 / (s_i s_j (s_i + s_j))``, which is finite everywhere.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        try:
            eigenvalues, vectors = torch.linalg.eigh(matrix)
        except torch.linalg.LinAlgError as error:
            is_finite = matrix.isfinite().flatten(-2).all(-1)
            head = is_finite.logical_not().int().argmax().item()
            raise NonFiniteError("anchors", head) from error
        # The ridge: condition numbers reach 10,000 for anchors from K-means and are
        # infinite for coinciding ones. As the value of a name, torch.compile with open
        # sizes would take it for an input, which it cannot bring in here.
        roots = (eigenvalues.clamp_min(0) + 1e-5).sqrt()
        return (vectors / roots.unsqueeze(-2)) @ vectors.mT, roots, vectors

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _, roots, vectors = output
        ctx.mark_non_differentiable(roots, vectors)
        ctx.save_for_backward(*inputs, roots, vectors)

    @staticmethod
    def backward(ctx, grad: Tensor, *_) -> Tensor:
        return _GradOfInverseSquareRoot.apply(grad, *ctx.saved_tensors)


class _GradOfInverseSquareRoot(torch.autograd.Function):
    """What a gradient of the root is for the matrix; the matrix is there only to be
    differentiated by, with the second divided differences of ``l -> 1 / s``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, matrix: Tensor, roots: Tensor, vectors: Tensor) -> Tensor:
        return _pull_back(grad, roots, vectors)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        grad, _, roots, vectors = inputs
        ctx.save_for_backward(grad, roots, vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_of_grad: Tensor) -> tuple[Tensor | None, ...]:
        grad, roots, vectors = ctx.saved_tensors
        g = vectors.mT @ grad @ vectors
        h = vectors.mT @ grad_of_grad @ vectors
        si = roots[..., :, None, None]
        sj, sk = roots[..., None, None, :], roots[..., None, :, None]
        differences = (si + sj + sk) / (
            si * sj * sk * (si + sj) * (si + sk) * (sj + sk)
        )
        for_matrix = torch.einsum("...ik,...ij,...ikj->...kj", g, h, differences)
        for_matrix += torch.einsum("...ij,...kj,...ikj->...ik", h, g, differences)
        for_matrix = vectors @ for_matrix @ vectors.mT
        return _pull_back(grad_of_grad, roots, vectors), for_matrix, None, None


def _pull_back(grad: Tensor, roots: Tensor, vectors: Tensor) -> Tensor:
    si, sj = roots.unsqueeze(-1), roots.unsqueeze(-2)
    divided_differences = -1 / (si * sj * (si + sj))
    return vectors @ ((vectors.mT @ grad @ vectors) * divided_differences) @ vectors.mT
