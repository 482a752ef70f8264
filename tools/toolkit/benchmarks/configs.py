"""The models of configs in a benchmark: what of them is run, and what is checked.

What runs is ``extract_feat``, backbone and neck, on noise of the size of the first
validation picture: heads, losses and boxes are the same beside every backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.markdown import markdown_table, three_digits
from setformer_mm.utils.results import config_sha256

from ..ablation.places import Place, place_in_ablation, require_own_rows
from ..config_checks import require_parts
from ..launch import build_model, read_config
from ..preflight import require_data
from ..timing import Call, quartiles
from .measuring import largest_share, use_backend
from .reporting import describe, versus

TASKS = {False: "inference", True: "training"}


@dataclass(frozen=True)
class Entry:
    """The model of a config.

    Attributes:
        config: path of the file.
        sha256: see :func:`setformer_mm.utils.results.config_sha256`.
        place: where it stands among those that are measured side by side.
        size: height and width of a picture.
        batch: pictures of a validation batch.
    """

    config: str
    sha256: str
    place: Place
    size: tuple[int, int]
    batch: int


def entry_of(config: str) -> Entry:
    """Read a config, and the size of its first validation picture.

    Raises:
        UserError: if it or its data are not there.
    """
    cfg = read_config(config)
    require_parts(cfg, ("model", "val_dataloader"))
    require_data(cfg, ("val",))
    sha256 = config_sha256(cfg)  # building what it says changes it
    preprocessor = build_model(cfg).data_preprocessor
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sample = DATASETS.build(cfg.val_dataloader.dataset)[0]
    height, width = preprocessor(pseudo_collate([sample]))["inputs"].shape[-2:]
    batch = cfg.val_dataloader.get("batch_size", 1)
    return Entry(config, sha256, place_in_ablation(cfg), (height, width), batch)


def group_entries(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    """Sort entries by group and name; those of baselines are in several groups.

    A group in which nothing is compared with the baseline is left out, unless all are
    like that.

    Raises:
        UserError: if two configs stand in one row, or those of a group have pictures of
            other sizes or batches.
    """
    require_own_rows((entry.config, entry.place) for entry in entries)
    groups: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        for group, name in entry.place.rows.items():
            groups.setdefault(group, {})[name] = entry
    for group, rows in groups.items():
        first, *others = rows.values()
        for entry in others:
            if (entry.size, entry.batch) != (first.size, first.batch):
                raise UserError(
                    f"configs of {group!r} are measured on equal batches, got "
                    f"{_pictures(first)} and {_pictures(entry)}; measure them apart"
                )
    compared = {
        group: rows
        for group, rows in groups.items()
        if len(rows) > 1 or baseline_of(group, rows) is None
    }
    return compared or groups


def baseline_of(group: str, rows: dict[str, Entry]) -> str | None:
    """The name of the one that the others are compared with, if it is there."""
    names = (name for name, e in rows.items() if group in e.place.baseline_of)
    return next(names, None)


def _pictures(entry: Entry) -> str:
    height, width = entry.size
    return f"{entry.batch} pictures of {height} x {width} in {entry.config}"


def build(entry: Entry, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model with random weights, the same whenever it is built."""
    cfg = read_config(entry.config)
    cfg.model.backbone.pop("init_cfg", None)
    torch.manual_seed(0)
    return build_model(cfg).to(dtype)


def noise(entry: Entry, batch: int) -> Tensor:
    """Preprocessed pictures, the same whenever they are drawn."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *entry.size, generator=generator)


def loss_of(features: tuple[Tensor, ...]) -> Tensor:
    """What gradients are of; that of squares would be constant, after a norm."""
    return sum(feature.cos().mean() for feature in features)


def prepare(entry: Entry, training: bool, device: str) -> Call:
    """Make the call that is measured: a batch of features, or of gradients."""
    model, images = build(entry).to(device), noise(entry, entry.batch).to(device)
    if not training:
        return torch.inference_mode()(lambda: tuple(model.extract_feat(images)))
    model.train()

    def step() -> None:
        loss_of(model.extract_feat(images)).backward()
        model.zero_grad()

    return step


def largest_error(entry: Entry, device: str) -> float:
    """How far features and gradients of two pictures are from those in float64, where
    SeT attention runs as its reference, as a share of the largest entry of each.
    """
    found = []
    for dtype in (torch.float32, torch.float64):
        model = build(entry, dtype).to(device)
        if dtype == torch.float64:
            use_backend(model, "reference")
        features = model.extract_feat(noise(entry, 2).to(device, dtype))
        trained = [p for p in model.backbone.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss_of(features), trained)
        found += [
            torch.cat([tensor.detach().flatten() for tensor in tensors])
            for tensors in (features, gradients)
        ]
    return largest_share(found[:2], found[2:])


def count_parameters(entry: Entry) -> int:
    """Parameters of the backbone."""
    return sum(p.numel() for p in build(entry).backbone.parameters())


def render(result: dict) -> str:
    """A table for each group of configs, and the machine."""
    tables = [_table(group) for group in result["groups"]]
    return "\n\n".join([*tables, describe(result["environment"])])


def _table(group: dict) -> str:
    height, width = group["size"]
    baseline = group["baseline"]
    header = [f"{group['name']}, {height} x {width}, batch {group['batch']}"]
    header += ["parameters"]
    for task in TASKS.values():
        header += [f"{task}, images/s", f"of {baseline}'s"]
        header += [f"{task}, MiB"] * bool(group["peaks"][task])
    rows = []
    for name, parameters in group["parameters"].items():
        row = [name, f"{parameters / 1e6:.2f} M"]
        for task in TASKS.values():
            times, peaks = group["times"][task], group["peaks"][task]
            row.append(three_digits(group["batch"] / quartiles(times[name])[1]))
            row.append("" if name == baseline else versus(times, baseline, name))
            if peaks:
                row.append("–" if peaks[name] is None else f"{peaks[name] / 2**20:.0f}")
        rows.append(row)
    return markdown_table(header, rows)
