"""Rank-augmented linear attention, against its matrix."""

import torch

from setformer_mm.models.mixers.rala import (
    RankAugmentedAttention,
    rank_augmented_attention,
)

from .dense import GRID, dense, random_heads


def feature(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x + 1, x.exp())


def test_keys_are_weighted_by_what_the_mean_query_finds():
    q, k, v = random_heads()
    phi_q, phi_k = feature(q), feature(k)
    found = torch.einsum("bhd,bhjd->bhj", phi_q.mean(-2), phi_k) / 2
    alpha = 30 * found.softmax(-1)
    torch.testing.assert_close(alpha.sum(-1), torch.full((2, 3), 30.0).double())
    scores = (phi_q @ phi_k.mT) * alpha[..., None, :]
    weights = scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(rank_augmented_attention(q, k, v), dense(weights, v))


def test_the_gate_multiplies_the_mixed_values():
    mixer = RankAugmentedAttention(8, 2).double()
    x = torch.randn(2, *GRID, 8).double()
    q, k, v = mixer.qkv_proj(x).view(2, 30, 3, 2, 4).permute(2, 0, 3, 1, 4)
    mixed = rank_augmented_attention(q, k, v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(mixer(x), mixer.out_proj(mixed * mixer.gate_proj(x)))


def test_a_query_without_scores_spoils_nothing():
    q, k, v = (x.float().requires_grad_() for x in random_heads())
    with torch.no_grad():
        q[0, 1, 7] = -200
    out = rank_augmented_attention(q, k, v)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(x.isfinite().all() for x in (out, *gradients))
    assert not out[0, 1, 7].any() and out[0, 1, 6].any()
