"""What models see in a picture, as plain data and a picture to lay over it."""

import colorsys
from typing import NamedTuple

import numpy as np

OPACITY = 0.55
BEST_CLASSES = 5


class Prediction(NamedTuple):
    """What a page shows of a prediction.

    Attributes:
        kind: "instances", "segments" or "classes".
        items: a dict each, with ``label``, ``color`` as CSS, and ``score`` in [0, 1];
            instances have a ``box``, too, (left, top, right, bottom) in pixels. The
            score of a segment is its share of the picture.
        overlay: RGBA ``(H, W, 4)``, uint8, or None.
    """

    kind: str
    items: list[dict]
    overlay: np.ndarray | None


def instances(found, names: dict, score_thr: float) -> Prediction:
    """Boxes, and masks if there are any, best first."""
    kept = found.pred_instances
    kept = kept[kept.scores >= score_thr].numpy()
    overlay = None
    if "masks" in kept:
        overlay = np.zeros((*found.ori_shape, 4), np.uint8)
        # The best one on top.
        for label, mask in list(zip(kept.labels, kept.masks))[::-1]:
            overlay[mask.astype(bool)] = (*_color(label, names), round(255 * OPACITY))
    items = [
        dict(_named(label, names), score=float(score), box=box.tolist())
        for label, score, box in zip(kept.labels, kept.scores, kept.bboxes)
    ]
    return Prediction("instances", items, overlay)


def segments(found, names: dict, score_thr: float) -> Prediction:
    """Every pixel's class, the largest first; black classes are not painted."""
    labels = found.pred_sem_seg.data[0].numpy()
    overlay = np.zeros((*labels.shape, 4), np.uint8)
    shares = {int(n): float(np.mean(labels == n)) for n in np.unique(labels)}
    for label in shares:
        if any(color := _color(label, names)):
            overlay[labels == label] = (*color, round(255 * OPACITY))
    largest = sorted(shares, key=shares.get, reverse=True)
    items = [dict(_named(label, names), score=shares[label]) for label in largest]
    return Prediction("segments", items, overlay)


def classes(found, names: dict, score_thr: float) -> Prediction:
    """The best few classes of the picture."""
    scores, labels = found.pred_score.topk(min(BEST_CLASSES, len(found.pred_score)))
    items = [
        dict(_named(label, names), score=score)
        for label, score in zip(labels.tolist(), scores.tolist())
    ]
    return Prediction("classes", items, None)


# By the host library whose models predict so.
DESCRIBERS = dict(mmdet=instances, mmseg=segments, mmpretrain=classes)


def _named(label: int, names: dict) -> dict:
    known = names.get("classes") or ()
    name = str(known[label]) if label < len(known) else f"class {label}"
    return dict(label=name, color="rgb({}, {}, {})".format(*_color(label, names)))


def _color(label: int, names: dict) -> tuple[int, int, int]:
    palette = names.get("palette")
    if isinstance(palette, list | tuple) and label < len(palette):
        return tuple(palette[label])
    # Neighbouring numbers get hues that are far apart.
    rgb = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.7, 0.95)
    return tuple(round(255 * value) for value in rgb)
