"""The public functions: what they compute, what they accept, which backend runs."""

import torch
from torch import Tensor

from .backends import Problem, select_backend
from .fold import Folded, fold
from .positions import Shape2d
from .reference import transport_plan_reference
from .valid import check_valid


def set_attention(
    x: Tensor,
    anchors: Tensor,
    references: Tensor,
    return_references: Tensor | None = None,
    *,
    spatial_shape: Shape2d | None = None,
    reference_shape: Shape2d | None = None,
    valid_shape: Tensor | None = None,
    lengths: Tensor | None = None,
    epsilon: float = 0.01,
    num_iters: int = 1,
    alpha: float = 2.0,
    tau: float | None = 0.5,
    backend: str = "auto",
) -> Tensor:
    """Self-optimal-transport attention: tokens attend to each other through ``M``
    references, at a cost linear in their number.

    A Gaussian kernel on the unit sphere, embedded by Nystrom's method on the anchors,
    scores tokens against references; an entropic transport plan between both balances
    the scores; position weights multiply it. There are two such plans: one takes tokens
    to references, the other one, with references of its own, back. With ``Q`` the
    columns of the first and ``P`` the rows of the second divided by their sums, the
    result is ``P Q^T val`` for the embedded tokens ``val``: ``P Q^T`` is a
    non-negative, row-stochastic ``N x N`` matrix of rank at most ``M`` that is never
    formed. Kernel, embedding, plan and position weights are those of SeTformer
    (Shamsolmoali et al., AAAI 2024); the way back from references to tokens is this
    project's reconstruction (docs/method.md).

    Computed in at least float32 whatever the dtypes and the autocast state; finite
    whenever the norm of every token is representable in x's dtype (gradients up to
    norms of about 1e30, which they are multiplied by on their way). A token whose norm
    is no more than 1e-30 (6.1e-5 in float16) counts as zero: it scores like a token
    that is orthogonal to every anchor, has value 0, and receives the gradient 0.

    Args:
        x (Tensor): Tokens of shape ``(B, N, h, D)``, floating; row-major over the grid
            for images. May be non-contiguous; ``B`` may be 0.
        anchors (Tensor): Of shape ``(h, K, D)``, any floating dtype, any norm.
        references (Tensor): Of shape ``(h, M, D)``, likewise; row-major over the
            reference grid for images.
        return_references (Tensor, optional): References for the way back, of the same
            shape; None for the same ones both ways.
        spatial_shape (tuple[int, int], optional): Token grid ``(H_t, W_t)`` with
            ``H_t * W_t = N``. None, with ``reference_shape`` None, for a sequence.
        reference_shape (tuple[int, int], optional): Reference grid ``(r_h, r_w)`` with
            ``r_h * r_w = M``.
        valid_shape (Tensor, optional): Valid rows and columns of each image's token
            grid, of shape ``(B, 2)``, int64, on x's device, from 0 to the grid's. The
            tokens outside take no part: an image's result is that of its valid part
            alone, and 0 elsewhere, as are gradients. None: all are valid.
        lengths (Tensor, optional): The same for sequences: how many tokens from the
            first on are valid, of shape ``(B,)``.
        epsilon (float): Entropic regularisation, in [1e-6, 1e6].
        num_iters (int): Sinkhorn iterations ``L``, at least 0, before the final update
            of the rows. Gradients are those of the iterations run.
        alpha (float): Inverse squared bandwidth of the kernel, in [1e-6, 1e6].
        tau (float, optional): Width of the position weights as a fraction of the side
            (of the length of a sequence), in [1e-6, 1e6]; None switches them off. The
            smaller it is, the more the nearest references win over the best ones.
        backend (str): "auto" or one of :func:`setformer_mm.ops.available_backends`.

    Returns:
        Tensor: Of shape ``(B, N, h, K)`` in x's dtype.

    Raises:
        ValueError: If a shape, a value or the backend is out of its rule.
        TypeError: If a tensor is not floating.
    """
    # Everything is checked before the fold, which is work already.
    check_fields(epsilon, num_iters, alpha, tau, backend)
    _check_parameters(anchors, references, return_references)
    _check_tokens(x, anchors)
    _check_geometry(x, references.shape[1], spatial_shape, reference_shape)
    _check_valid(x, spatial_shape, valid_shape, lengths)
    return set_attention_folded(
        x,
        fold(anchors, references, return_references, alpha),
        spatial_shape=spatial_shape,
        reference_shape=reference_shape,
        valid_shape=valid_shape,
        lengths=lengths,
        epsilon=epsilon,
        num_iters=num_iters,
        tau=tau,
        backend=backend,
    )


def set_attention_folded(
    x: Tensor,
    folded: Folded,
    *,
    spatial_shape: Shape2d | None = None,
    reference_shape: Shape2d | None = None,
    valid_shape: Tensor | None = None,
    lengths: Tensor | None = None,
    epsilon: float = 0.01,
    num_iters: int = 1,
    tau: float | None = 0.5,
    backend: str = "auto",
) -> Tensor:
    """:func:`set_attention` for parameters folded beforehand.

    All other arguments are those of :func:`set_attention`.

    Args:
        x (Tensor): Tokens of shape ``(B, N, h, D)``.
        folded (Folded): What :func:`fold` returned, in any floating dtype of at least
            float32.

    Returns:
        Tensor: Of shape ``(B, N, h, K)`` in x's dtype.

    Raises:
        ValueError: If a shape, a value or the backend is out of its rule.
        TypeError: If ``x`` is not floating, or ``valid_shape`` not int64.
    """
    check_fields(epsilon, num_iters, folded.alpha, tau, backend)
    _check_tokens(x, folded.anchors)
    _check_geometry(x, folded.num_references, spatial_shape, reference_shape)
    valid = _check_valid(x, spatial_shape, valid_shape, lengths)
    counts = _as_integers((x.shape[1], folded.num_references))
    geometry = _as_integers(spatial_shape), _as_integers(reference_shape), *counts
    num_anchors = int(folded.score_maps.shape[1])
    problem = Problem(x, epsilon, num_iters, tau, geometry, num_anchors)
    run = select_backend(backend, problem)
    return run(
        x,
        folded,
        spatial_shape=spatial_shape,
        reference_shape=reference_shape,
        epsilon=epsilon,
        num_iters=num_iters,
        tau=tau,
        valid=valid,
    )


def transport_plan(
    x: Tensor,
    anchors: Tensor,
    references: Tensor,
    return_references: Tensor | None = None,
    *,
    way: str = "in",
    spatial_shape: Shape2d | None = None,
    reference_shape: Shape2d | None = None,
    epsilon: float = 0.01,
    num_iters: int = 1,
    alpha: float = 2.0,
    tau: float | None = 0.5,
    backend: str = "auto",
) -> Tensor:
    """One of the two transport plans of :func:`set_attention`, before position weights.

    For tests and pictures: it is of size ``N x M``, which the operator itself need not
    store. Rows sum to ``1 / N`` exactly, columns to ``1 / M`` once converged. All other
    arguments are those of :func:`set_attention`; ``spatial_shape``,
    ``reference_shape``, ``tau`` and ``backend`` are checked, and have no influence on a
    plan without positions, which the reference computes.

    Args:
        way (str): "in", from tokens to references, or "back", from return references to
            tokens.

    Returns:
        Tensor: ``T`` of shape ``(B, h, N, M)``, float32, or float64 if ``x`` is.

    Raises:
        ValueError: If a shape, a value or the backend is out of its rule.
        TypeError: If a tensor is not floating.
    """
    if way not in ("in", "back"):
        raise ValueError(f"way must be 'in' or 'back', got {way!r}")
    check_fields(epsilon, num_iters, alpha, tau, backend)
    _check_parameters(anchors, references, return_references)
    _check_tokens(x, anchors)
    _check_geometry(x, references.shape[1], spatial_shape, reference_shape)
    folded = fold(anchors, references, return_references, alpha)
    return transport_plan_reference(
        x, folded, way=way, epsilon=epsilon, num_iters=num_iters
    )


def check_fields(
    epsilon: float, num_iters: int, alpha: float, tau: float | None, backend: str
) -> None:
    """Check the arguments of :func:`set_attention` that are no tensors or shapes.

    Raises:
        ValueError: If one is out of its rule.
    """
    _check_in_range("epsilon", epsilon)
    if isinstance(num_iters, bool) or not isinstance(num_iters, int) or num_iters < 0:
        raise ValueError(f"num_iters must be an integer >= 0, got {num_iters!r}")
    _check_in_range("alpha", alpha)
    if tau is not None:
        _check_in_range("tau", tau)
    if backend != "auto":  # which can be used wherever the reference can
        select_backend(backend)


def _as_integers(shape: Shape2d | None) -> Shape2d | None:
    """What a choice is made by: torch.jit's tracer hands out shapes as tensors. Symbols
    of torch.compile and torch.export stay: as an integer, one would stand for a single
    size.
    """
    if shape is None:
        return None
    height, width = (int(n) if isinstance(n, Tensor) else n for n in shape)
    return height, width


def _check_parameters(
    anchors: Tensor, references: Tensor, return_references: Tensor | None
) -> None:
    sets = {"references": references}
    if return_references is not None:
        sets["return_references"] = return_references
    for name, tensor in {"anchors": anchors, **sets}.items():
        _require_floating(name, tensor)
    if anchors.dim() != 3 or 0 in anchors.shape:
        raise ValueError(
            "anchors must be (heads, K, D) with none of them 0, "
            f"got {tuple(anchors.shape)}"
        )
    heads, _, dim = anchors.shape
    for name, tensor in sets.items():
        if (
            tensor.dim() != 3
            or tensor.shape[1] == 0
            or (tensor.shape[0], tensor.shape[2]) != (heads, dim)
        ):
            raise ValueError(
                f"{name} must be (heads, M, {dim}) with {heads} heads like the anchors "
                f"and M at least 1, got {tuple(tensor.shape)}"
            )
        if tensor.device != anchors.device:
            raise ValueError(
                f"{name} must be on the anchors' device {anchors.device}, "
                f"got {tensor.device}"
            )
    if return_references is not None and return_references.shape != references.shape:
        raise ValueError(
            "return_references must have the shape of the references, "
            f"{tuple(references.shape)}, got {tuple(return_references.shape)}"
        )


def _require_floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point() or tensor.itemsize == 1:
        raise TypeError(
            f"{name} must be floating, of at least 16 bits, got {tensor.dtype}"
        )


def _check_tokens(x: Tensor, anchors: Tensor) -> None:
    _require_floating("x", x)
    heads, _, dim = anchors.shape
    if x.dim() != 4 or x.shape[1] == 0 or tuple(x.shape[2:]) != (heads, dim):
        raise ValueError(
            f"x must be (B, N, {heads}, {dim}) with N at least 1, got {tuple(x.shape)}"
        )
    if x.device != anchors.device:
        raise ValueError(
            f"x must be on the anchors' device {anchors.device}, got {x.device}"
        )


def _check_geometry(
    x: Tensor,
    num_references: int,
    spatial_shape: Shape2d | None,
    reference_shape: Shape2d | None,
) -> None:
    if (spatial_shape is None) != (reference_shape is None):
        raise ValueError(
            "spatial_shape and reference_shape must be given together (image) or not "
            f"at all (sequence), got {spatial_shape} and {reference_shape}"
        )
    if spatial_shape is not None:
        for name, shape, rule, count in (
            ("spatial_shape", spatial_shape, "H_t * W_t = N", x.shape[1]),
            ("reference_shape", reference_shape, "r_h * r_w = M", num_references),
        ):
            is_pair = isinstance(shape, list | tuple) and len(shape) == 2
            if (
                not is_pair
                or any(isinstance(side, float) for side in shape)
                or min(shape) < 1
                or shape[0] * shape[1] != count
            ):
                raise ValueError(
                    f"{name} must be a pair of integers with {rule} = {count}, "
                    f"got {shape}"
                )


def _check_valid(
    x: Tensor,
    spatial_shape: Shape2d | None,
    valid_shape: Tensor | None,
    lengths: Tensor | None,
) -> Tensor | None:
    """Check the valid parts and return their rows and columns ``(B, 2)``."""
    name, valid = "valid_shape", valid_shape
    is_image = spatial_shape is not None
    if lengths is not None:
        name, valid = "lengths", lengths
    if valid is None:
        return None
    if (valid_shape is not None) != is_image or (lengths is not None) == is_image:
        raise ValueError(
            "valid_shape goes with spatial_shape (image) and lengths without it "
            f"(sequence), got spatial_shape={spatial_shape} and {name}"
        )
    check_valid(name, valid, x, spatial_shape if is_image else x.shape[1:2])
    return valid if is_image else torch.stack([valid, torch.ones_like(valid)], -1)


def _check_in_range(name: str, value: float) -> None:
    """Far outside this range, exponents would overflow in float32."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and 1e-6 <= value <= 1e6):
        raise ValueError(f"{name} must be a number in [1e-6, 1e6], got {value!r}")
