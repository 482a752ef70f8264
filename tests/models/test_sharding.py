"""FSDP of any granularity: parameters are whole in their owner's forward pass alone."""

import copy
import sys

import pytest
import torch
from torch import distributed, multiprocessing, nn

from setformer_mm.models import SeTformer
from setformer_mm.models.stages import SeTBlock

from .test_setformer import build

WORLD_SIZE = 2


def sharded_by_fsdp2(model: SeTformer, owners: list[nn.Module]) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = distributed.device_mesh.init_device_mesh("cpu", (WORLD_SIZE,))
    for owner in owners:
        fully_shard(owner, mesh=mesh)
    return fully_shard(model, mesh=mesh)


GRANULARITIES = {
    "model": lambda model: [],
    "stage": lambda model: list(model.stages),
    "block": lambda model: [m for m in model.modules() if isinstance(m, SeTBlock)],
    "attention": lambda model: [
        m.attn for m in model.modules() if isinstance(m, SeTBlock)
    ],
}


def losses(model: nn.Module, images: torch.Tensor, steps: int = 2) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = []
    for _ in range(steps):
        loss = sum(out.square().mean() for out in model(images))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    model.eval()
    with torch.no_grad():
        values += [out.square().mean().item() for out in model(images)]
    return values


def work(rank: int, port: int, seed: int, granularities: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"tcp://localhost:{port}", rank=rank, world_size=WORLD_SIZE
    )
    torch.manual_seed(seed)
    # The same images everywhere: what is averaged over processes is one gradient.
    plain, images = build(), torch.randn(2, 3, 32, 32)
    models = [copy.deepcopy(plain) for _ in granularities]
    expected = losses(plain, images)
    for name, model in zip(granularities, models):
        sharded = sharded_by_fsdp2(model, GRANULARITIES[name](model))
        torch.testing.assert_close(losses(sharded, images), expected, msg=name)
    distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="gloo")
def test_losses_are_those_of_the_unsharded_model(seed):
    pytest.importorskip("torch.distributed.fsdp", reason="torch without FSDP")
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    multiprocessing.spawn(
        work, (port, seed % 2**31, list(GRANULARITIES)), nprocs=WORLD_SIZE
    )
