"""Configs of the toy job with something wrong in them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from in_process import TOY, run_main
from mmengine.config import Config

from .campaign import ACCEPTED, Case, Fault
from .child import run
from .outputs import products, refused


def _nodes(node: object, key: str = "") -> Iterator[tuple[str, dict]]:
    """Yield each dict of a config with its place."""
    if isinstance(node, dict):
        yield key, node
        for name, child in node.items():
            yield from _nodes(child, f"{key}.{name}")
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{key}.{index}")


def _typed(cfg: dict, rng: random.Random) -> dict:
    """A part that some class is built of, in training or in validation."""
    unused = ".test_dataloader", ".test_evaluator"
    return rng.choice(
        [n for key, n in _nodes(cfg) if "type" in n and not key.startswith(unused)]
    )


def unknown_type(cfg: dict, rng: random.Random) -> None:
    node = _typed(cfg, rng)
    node["type"] = rng.choice([node["type"] + "s", node["type"][:-1], "Nothing"])


def type_is_no_name(cfg: dict, rng: random.Random) -> None:
    _typed(cfg, rng)["type"] = rng.choice([None, 3, 2.5, ["a"], {}])


def unknown_field(cfg: dict, rng: random.Random) -> None:
    _typed(cfg, rng)["widht"] = rng.randrange(9)


def part_missing(cfg: dict, rng: random.Random) -> None:
    cfg.pop(rng.choice(["model", "train_dataloader", "optim_wrapper", "train_cfg"]))


def another_value(cfg: dict, rng: random.Random) -> None:
    """Of another type, mostly; some mean something."""
    node = rng.choice([node for _, node in _nodes(cfg) if node])
    node[rng.choice(sorted(node))] = rng.choice(
        [None, "text", -1, 0, 1.5, [], {}, [None], float("nan"), True]
    )


def text_truncated(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def line_missing(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return "".join(lines)


def bytes_changed(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    return text[:place] + chr(rng.randrange(32, 127)) + text[place + 1 :]


def base_missing(text: str, rng: random.Random) -> str:
    return f"_base_ = 'nothing_{rng.randrange(99)}.py'\n{text}"


OF_FIELDS = [unknown_type, type_is_no_name, unknown_field, part_missing, another_value]
OF_TEXT = [text_truncated, line_missing, bytes_changed, base_missing]
# Others may still be a config.
NEVER_MEANT = (unknown_type, type_is_no_name, unknown_field, part_missing, base_missing)


def draw(rng: random.Random, common: Path) -> Iterator[Case]:
    """Each damage of each config once before any comes again."""
    damages = [(d, c) for d in OF_FIELDS + OF_TEXT for c in ("epochs", "iters")]
    while True:
        for damage, config in rng.sample(damages, len(damages)):
            yield _case(damage, f"toy_{config}.py", rng.randrange(2**32))


def _case(damage: Callable, config: str, seed: int) -> Case:
    def attempt(folder: Path) -> str:
        path, rng = folder / "config.py", random.Random(seed)
        cfg = Config.fromfile(TOY / config, import_custom_modules=False)
        if damage in OF_FIELDS:
            fields = cfg.to_dict()
            damage(fields, rng)
            text = Config(fields).pretty_text
        else:
            text = damage(cfg.pretty_text, rng)
        path.write_text(text)
        work_dir = "--work-dir", folder / "run"
        end = run(lambda: run_main("train", path, *work_dir))
        if end.status or damage in NEVER_MEANT:
            return refused(end, folder)
        end.require(0)
        products(folder)
        if not list((folder / "run").iterdir()):
            raise Fault("accepted, and nothing was done")
        return ACCEPTED

    kind = damage.__name__.replace("_", " ")
    return Case(kind, f"{config}, seed {seed}", attempt)
