"""Models to look into: read and checked once, each run once a picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from setformer_mm.models import SeTAttention
from setformer_mm.utils.checkpoints import load_fitting_weights, read_checkpoint
from setformer_mm.utils.data_sources import leaf_datasets
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.transport import WAYS, Recorded, Transport, recording

from ..class_names import read_class_names
from ..config_checks import require_parts
from ..inspected_model import (
    Block,
    PicturePipeline,
    attentions_of,
    build_with_backbone,
    seen_picture,
)
from ..launch import one_line, read_config
from ..pictures import UnreadablePicture, find_pictures, read_picture
from .drawable_predictions import DESCRIBERS, Prediction

# Of what the model sees after its pipeline: 1333 x 800 is one million, and the plans of
# a first stage have a row for each 16 of them.
MAX_PIXELS = 4_000_000
NUM_SAMPLES = 6


@dataclass(frozen=True)
class Look:
    """One picture as one model sees it.

    Attributes:
        picture: after the pipeline and without padding, RGB ``(H, W, 3)``, uint8.
        prediction: in its coordinates.
        recorded: what each attention saw.
    """

    picture: np.ndarray
    prediction: Prediction
    recorded: dict[Block, Recorded]


@dataclass(frozen=True)
class ExplorableModel:
    """A config with its checkpoint.

    Attributes:
        name: for people.
        scope: of the config: the host library, and with it the task.
        describe: turns the model's data sample into a :class:`Prediction`.
        samples: pictures of the config's test data, if they are there.
    """

    name: str
    scope: str
    model: nn.Module
    pipeline: PicturePipeline
    attentions: dict[Block, SeTAttention]
    describe: Callable[..., Prediction]
    samples: Sequence[Path]

    def look(self, picture: np.ndarray, name: str) -> Look:
        """Run the model on a picture.

        Args:
            picture: BGR ``(height, width, 3)``, uint8.
            name: of it, for errors.

        Raises:
            UserError: if it does not pass the pipeline and the model, or is too large.
        """
        try:
            sample = self.pipeline(picture)
            inputs = sample["inputs"]
            _require_size(inputs, name)
            # Nothing is scaled back: predictions lie where the tokens are.
            here = dict(ori_shape=tuple(inputs.shape[1:]), scale_factor=(1.0, 1.0))
            sample["data_samples"].set_metainfo(here)
            batch = {key: [value] for key, value in sample.items()}
            with (
                torch.no_grad(),
                DefaultScope.overwrite_default_scope(self.scope),
                recording(list(self.attentions.values())) as seen,
            ):
                (found,) = self.model.test_step(batch)
        except UserError:
            raise
        except Exception as error:  # of any type: the config's pipeline is the user's
            height, width = picture.shape[:2]
            raise UserError(
                f"{name} of {width} x {height} pixels does not pass the pipeline "
                f"and model of {self.name}: {one_line(error)}"
            ) from error
        recorded = {key: seen[attn] for key, attn in self.attentions.items()}
        seen_rgb = seen_picture(inputs).permute(1, 2, 0).numpy()
        return Look(seen_rgb, self.describe(found), recorded)


def load_explorable(
    config: str, checkpoint: str, device: str, score_thr: float
) -> ExplorableModel:
    """Read a config and its checkpoint.

    Args:
        config: path.
        checkpoint: path.
        device: where to run.
        score_thr: least score of an instance.

    Raises:
        UserError: if either cannot be read, they do not fit, or there is no SeT
            attention to look into.
    """
    cfg = read_config(config)
    require_parts(cfg, ("model", "test_dataloader"))
    scope = cfg.get("default_scope")
    if scope not in DESCRIBERS:
        known = ", ".join(DESCRIBERS)
        raise UserError(f"default_scope must be one of {known}, got {scope!r}")
    content = read_checkpoint(checkpoint)
    names = read_class_names(cfg, content)
    model, backbone = build_with_backbone(cfg, config)
    load_fitting_weights(model, checkpoint, checkpoint=content)

    def describe(found) -> Prediction:
        return DESCRIBERS[scope](found.cpu(), names, score_thr)

    return ExplorableModel(
        name=Path(config).stem,
        scope=scope,
        model=model.to(device),
        pipeline=PicturePipeline(cfg),
        attentions=attentions_of(backbone),
        describe=describe,
        samples=_sample_pictures(cfg),
    )


def _sample_pictures(cfg: Config) -> list[Path]:
    """A few readable pictures, spread over a config's test data; none if not there."""
    folders = []
    for _, fields in leaf_datasets(cfg.test_dataloader.dataset, "test"):
        prefix = fields.get("data_prefix") or ""
        if isinstance(prefix, dict):
            prefix = prefix.get("img") or prefix.get("img_path") or ""
        folders.append(Path(fields.get("data_root") or "", prefix))
    try:
        found = list(find_pictures(folders))
    except UserError:
        return []
    samples = []
    for path in found[:: max(1, len(found) // NUM_SAMPLES)][:NUM_SAMPLES]:
        try:
            read_picture(path)
        except UnreadablePicture:
            continue
        samples.append(path)
    return samples


def _require_size(inputs: Tensor, name: str) -> None:
    height, width = inputs.shape[1:]
    if height * width > MAX_PIXELS:
        raise UserError(
            f"{name} reaches the model with {width} x {height} pixels, more than "
            f"{MAX_PIXELS / 1e6:g} million; make it smaller"
        )


def layout(look: Look) -> list[dict]:
    """What there is to look into, stage by stage, as the page wants it."""
    stages: dict[int, dict] = {}
    for (stage, _), recorded in look.recorded.items():
        rows, columns = recorded.valid_shape or recorded.tokens.shape[:2]
        fields = dict(
            rows=rows,
            columns=columns,
            stride=4 * 2**stage,
            heads=recorded.attention.num_heads,
            references=recorded.attention.reference_shape,
            positions=recorded.attention.tau is not None,
            twoSets=recorded.attention.return_references is not None,
            blocks=0,
        )
        stages.setdefault(stage, fields)["blocks"] += 1
    return list(stages.values())


def token_view(transport: Transport, token: int) -> list[dict]:
    """What a block does with one token, head by head (docs/method.md, steps 5 to 8).

    Args:
        transport: of the block.
        token: its number, row by row, in 0..N-1.

    Returns:
        One dict a head. Over its M references: ``mass_in`` and ``mass_back``, the
        token's row of either plan times N, whose sums are 1; ``weight_in``, its row of
        Q times N, which is 1 if it counts as much as tokens do on average; and
        ``weight_back``, its row of P, whose sum is 1. Over all N tokens: ``receives``
        and ``gives``, its row and its column of P Q^T.
    """
    to_tokens, from_tokens = transport.factors
    count = to_tokens.shape[1]
    mass_in, mass_back = (transport.plan(way)[:, token] * count for way in WAYS)
    fields = dict(
        mass_in=mass_in,
        mass_back=mass_back,
        weight_in=from_tokens[:, :, token] * count,
        weight_back=to_tokens[:, token],
        receives=transport.attention_rows([token])[:, 0],
        gives=transport.attention_columns([token])[:, 0],
    )
    lists = {name: values.tolist() for name, values in fields.items()}
    return [dict(zip(lists, head)) for head in zip(*lists.values())]


def reference_view(transport: Transport, head: int, reference: int) -> dict:
    """What one reference of a head does, over all N tokens.

    Returns:
        ``collects``, its column of Q: the shares of tokens in what it collects, of sum
        1; and ``serves``, its column of P: its share in what each token gets.
    """
    to_tokens, from_tokens = transport.factors
    return dict(
        collects=from_tokens[head, reference].tolist(),
        serves=to_tokens[head, :, reference].tolist(),
    )
