"""SeT attention as docs/method.md states it: one head, token by token, in numpy.

Written from the text and not from the operator: nothing is folded, factored or kept in
the log domain, and the matrices the operator avoids are formed.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

RIDGE = 1e-5


class Way(NamedTuple):
    """One of the two transport problems (``N`` tokens, ``M`` references)."""

    scores: np.ndarray  # S, (N, M)
    plan: np.ndarray  # T before position weights, (N, M)
    weighted: np.ndarray  # T * Pi, (N, M)


class Head(NamedTuple):
    """What one head computes for one image."""

    way_in: Way
    way_back: Way
    mixing: np.ndarray  # P Q^T, (N, N)
    values: np.ndarray  # val, (N, K)
    out: np.ndarray  # P Q^T val, (N, K)


def positions(count, shape):
    """Coordinates in [0, 1]: cell centres of a grid, or ``i / n`` for a sequence."""
    if shape is None:
        return [((i + 1) / count,) for i in range(count)]
    height, width = shape
    return [
        ((i + 0.5) / height, (j + 0.5) / width)
        for i in range(height)
        for j in range(width)
    ]


def position_weights(num_tokens, num_references, spatial_shape, reference_shape, tau):
    """``Pi`` as a dense ``N x M`` matrix."""
    weights = np.ones((num_tokens, num_references))
    if tau is not None:
        for i, p in enumerate(positions(num_tokens, spatial_shape)):
            for j, q in enumerate(positions(num_references, reference_shape)):
                for a, b in zip(p, q):
                    weights[i, j] *= np.exp(-(((a - b) / tau) ** 2))
    return weights


def kernel(a, b, alpha):
    """``exp(-alpha / 2 |a/|a| - b/|b||^2)`` of two vectors."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return np.exp(-alpha / 2 * np.sum((a - b) ** 2))


def inverse_square_root(anchors, alpha):
    """``(k(z, z) + ridge)^-1/2`` by a matrix square root, not by eigenvectors."""
    gram = np.array([[kernel(a, b, alpha) for b in anchors] for a in anchors])
    root = scipy.linalg.sqrtm(gram + RIDGE * np.eye(len(anchors)))
    return np.linalg.inv(root.real)


def attend(
    x, anchors, references, return_references=None, *,
    spatial_shape=None, reference_shape=None,
    epsilon=0.01, num_iters=1, alpha=2.0, tau=0.5,
):  # fmt: skip
    """Run one head on tokens ``(N, D)``, anchors ``(K, D)``, references ``(M, D)``."""
    if return_references is None:
        return_references = references
    n, m = len(x), len(references)
    whitening = inverse_square_root(anchors, alpha)
    weights = position_weights(n, m, spatial_shape, reference_shape, tau)

    def embed(v):
        return whitening @ np.array([kernel(z, v, alpha) for z in anchors])

    embedded = np.array([embed(v) for v in x])

    def transport(references):
        scores = embedded @ np.array([embed(v) for v in references]).T
        gibbs = np.exp(scores / epsilon)
        b = np.ones(m)
        for _ in range(num_iters):
            a = (1 / n) / (gibbs @ b)
            b = (1 / m) / (gibbs.T @ a)
        a = (1 / n) / (gibbs @ b)
        plan = np.diag(a) @ gibbs @ np.diag(b)
        return Way(scores, plan, plan * weights)

    way_in, way_back = transport(references), transport(return_references)
    q = way_in.weighted / way_in.weighted.sum(0, keepdims=True)
    p = way_back.weighted / way_back.weighted.sum(1, keepdims=True)
    # The embedding of a vector that is orthogonal to all anchors.
    centre = whitening @ np.full(len(anchors), np.exp(-alpha))
    values = np.linalg.norm(x, axis=1)[:, None] * (embedded - centre)
    return Head(way_in, way_back, p @ q.T, values, p @ q.T @ values)
