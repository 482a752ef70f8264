"""Checkpoints that are damaged, or hold weights that cannot be meant."""

import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import checkpoint_readers as readers
import torch
from in_process import ROOT, TOY, run_main

from setformer_mm.utils.checkpoints import read_checkpoint
from setformer_mm.utils.files import save_checkpoint

from .campaign import ACCEPTED, Case, Fault
from .child import run
from .outputs import products, refused, refused_or_same

SETFORMER = ROOT / "configs/digits/checkpoints/setformer_digits.pth"
OF_TOY = [readers.resume, readers.load_from, readers.init_cfg, readers.evaluate]
OF_TOY += [readers.publish]
OF_SETFORMER = [readers.predict, readers.visualize, readers.publish]
# Which take up a training, or evaluate what there is.
NEED_ALL_WEIGHTS = [readers.resume, readers.evaluate, readers.predict]
NEED_ALL_WEIGHTS += [readers.visualize]


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def emptied(content: bytes, rng: random.Random) -> bytes:
    return b""


def bytes_flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 10, 100])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + bytes(end - begin) + content[end:]


def random_bytes(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, len(content)))


def grown(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 1000))


def _weights(checkpoint: dict, rng: random.Random) -> tuple[dict, str]:
    weights = checkpoint["state_dict"]
    names = [k for k, v in weights.items() if isinstance(v, torch.Tensor)]
    return weights, rng.choice([k for k in names if weights[k].is_floating_point()])


def not_finite(checkpoint: dict, rng: random.Random) -> None:
    weights, name = _weights(checkpoint, rng)
    weight = weights[name] = weights[name].clone()
    bad = rng.choice([float("nan"), float("inf"), -float("inf")])
    weight.view(-1)[rng.randrange(weight.numel())] = bad


def another_shape(checkpoint: dict, rng: random.Random) -> None:
    weights, name = _weights(checkpoint, rng)
    weights[name] = torch.cat([weights[name], weights[name]])


def lacking(checkpoint: dict, rng: random.Random) -> None:
    weights, name = _weights(checkpoint, rng)
    del weights[name]


def no_tensor(checkpoint: dict, rng: random.Random) -> None:
    weights, name = _weights(checkpoint, rng)
    weights[name] = rng.choice([None, 1.0, "text", [1.0], {}])


def no_dict(checkpoint: dict, rng: random.Random) -> None:
    checkpoint["state_dict"] = rng.choice([None, [1], "text", 3, torch.ones(2)])


def keys_are_numbers(checkpoint: dict, rng: random.Random) -> None:
    checkpoint["state_dict"] = dict(enumerate(checkpoint["state_dict"].values()))


OF_BYTES = [truncated, truncated, bytes_flipped, bytes_flipped, zeroed, random_bytes]
OF_BYTES += [emptied, grown]
OF_CONTENT = [not_finite, another_shape, lacking, no_tensor, no_dict, keys_are_numbers]


def draw(rng: random.Random, common: Path) -> Iterator[Case]:
    """Two damages of bytes for one of contents; a tool after the other."""
    toy = _trained(common)
    expected = cache(lambda reader, source: _undamaged(reader, source, common))
    while True:
        for source, its_readers in ((toy, OF_TOY * 2), (SETFORMER, OF_SETFORMER)):
            for reader in its_readers:
                for damages in (OF_BYTES, OF_BYTES, OF_CONTENT):
                    damage = rng.choice(damages)
                    yield _case(reader, source, damage, rng.randrange(2**32), expected)


def _trained(common: Path) -> Path:
    """A checkpoint from the middle of the toy job."""
    options = ["--cfg-options", "default_hooks.checkpoint.max_keep_ckpts=9"]
    run(lambda: readers.train(run_main, TOY, common, None, *options)).require(0)
    return common / "run" / "epoch_2.pth"


def _undamaged(reader, source: Path, common: Path) -> dict[str, str]:
    folder = common / f"{source.stem} {reader.__name__}"
    folder.mkdir()
    run(lambda: reader(run_main, TOY, folder, str(source))).require(0)
    if not (found := products(folder)):
        raise AssertionError(f"{reader.__name__} has no products to compare")
    return found


def _case(reader, source: Path, damage: Callable, seed: int, expected) -> Case:
    def attempt(folder: Path) -> str:
        path, rng = folder / "file.pth", random.Random(seed)
        if damage in OF_BYTES:
            path.write_bytes(damage(source.read_bytes(), rng))
        else:
            checkpoint = read_checkpoint(source)
            damage(checkpoint, rng)
            save_checkpoint(checkpoint, path)
        end = run(lambda: reader(run_main, TOY, folder, str(path)))
        if damage in OF_BYTES:
            return refused_or_same(end, folder, expected(reader, source))
        if _may_be_meant(damage, reader) and not end.status:
            end.require(0)
            if not products(folder):
                raise Fault("accepted, and without a result")
            return ACCEPTED
        return refused(end, folder)

    kind = damage.__name__.replace("_", " ")
    return Case(kind, f"{source.name} for {reader.__name__}, seed {seed}", attempt)


def _may_be_meant(damage: Callable, reader) -> bool:
    """Weights of another model are what fine-tuning begins with."""
    return damage in (another_shape, lacking) and reader not in NEED_ALL_WEIGHTS
