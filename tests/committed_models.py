"""What the committed models say of a few pictures, to be the same everywhere.

``python tests/committed_models.py`` writes it down anew, in ``committed_models.npz``:
run it when the checkpoints have changed.
"""

from pathlib import Path

import numpy as np
from digit_pictures import digit_picture, scene

from setformer_mm import configs

FILE = Path(__file__).with_suffix(".npz")
CERTAIN = 0.5  # least score of an instance, so that none comes and goes with rounding


def pictures() -> dict[str, np.ndarray]:
    """uint8 of shape ``(pictures, height, width, 3)``, for each model by its config."""
    digits = np.stack([digit_picture(index) for index in (0, 1, 5, 9)])
    scenes = np.stack([scene((3, 6)), scene((8, 2))])
    return dict(
        setformer_digits=digits,
        mask_rcnn_setformer_digits=scenes,
        upernet_setformer_digits=scenes,
    )


def predict(name: str, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Let a committed model look at pictures, as its library's inferencer does."""
    checkpoint = f"{configs.folder()}/digits/checkpoints/{name}.pth"
    return _PREDICT[name](configs.path(name), checkpoint, list(pictures))


def _classify(config: str, checkpoint: str, pictures: list) -> dict[str, np.ndarray]:
    from mmpretrain import ImageClassificationInferencer

    found = ImageClassificationInferencer(config, checkpoint, device="cpu")(pictures)
    return dict(scores=np.stack([each["pred_scores"] for each in found]))


def _detect(config: str, checkpoint: str, pictures: list) -> dict[str, np.ndarray]:
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(config, checkpoint, device="cpu")
    found = inferencer(pictures, return_datasamples=True)["predictions"]
    instances = [each.pred_instances.numpy() for each in found]
    instances = [each[each.scores > CERTAIN] for each in instances]
    fields = ("labels", "scores", "bboxes")
    arrays = {f: np.concatenate([each[f] for each in instances]) for f in fields}
    areas = [each.masks.sum((1, 2)) for each in instances]
    return dict(arrays, mask_areas=np.concatenate(areas))


def _segment(config: str, checkpoint: str, pictures: list) -> dict[str, np.ndarray]:
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(config, checkpoint, device="cpu")
    found = inferencer(pictures, return_datasamples=True)
    logits = np.stack([each.seg_logits.data.numpy() for each in found])
    return dict(logits=logits[:, :, ::4, ::4])


_PREDICT = dict(
    setformer_digits=_classify,
    mask_rcnn_setformer_digits=_detect,
    upernet_setformer_digits=_segment,
)


def main() -> None:
    arrays = {}
    for name, seen in pictures().items():
        arrays[f"{name}/pictures"] = seen
        for field, value in predict(name, seen).items():
            arrays[f"{name}/{field}"] = value
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
