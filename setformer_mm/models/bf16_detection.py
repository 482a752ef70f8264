"""The two places where mmdetection's Mask R-CNN fails under bf16 autocast.

Imported by the detection configs (``custom_imports``), not by the package: mmdetection
is an optional companion. In any other precision both classes equal their parents.
"""

from collections.abc import Sequence

from mmdet.models import RPNHead, SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor

__all__ = ["Float32RPNHead", "Float32RoIExtractor"]


@MODELS.register_module()
class Float32RPNHead(RPNHead):
    """mmdetection's ``RPNHead`` with scores and box offsets cast to fp32.

    In bf16 every score above 0.998 is rounded to 1 and the best proposals become equal;
    mmcv's NMS on a CPU refuses bf16 scores.
    """

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score the anchors of one level.

        Args:
            x (Tensor): Features ``(B, C, H, W)``, any dtype.

        Returns:
            tuple[Tensor, Tensor]: Logits ``(B, anchors, H, W)`` and offsets
            ``(B, 4 * anchors, H, W)``, at least fp32.
        """
        scores, offsets = super().forward_single(x)
        return _at_least_fp32(scores), _at_least_fp32(offsets)


@MODELS.register_module()
class Float32RoIExtractor(SingleRoIExtractor):
    """mmdetection's ``SingleRoIExtractor`` on features cast to fp32.

    The parent casts the boxes to the dtype of the features. In bf16 a coordinate near
    1000 is then rounded to a multiple of 4 pixels, and mmcv's RoIAlign has no bf16
    kernel.
    """

    def forward(
        self,
        feats: Sequence[Tensor],
        rois: Tensor,
        roi_scale_factor: float | None = None,
    ) -> Tensor:
        """Pool the features of boxes.

        Args:
            feats (Sequence[Tensor]): One map ``(B, C, H, W)`` a level, any dtype.
            rois (Tensor): Boxes ``(n, 5)``: image index, x1, y1, x2, y2 in pixels.
            roi_scale_factor (float, optional): Enlarges the boxes before pooling.

        Returns:
            Tensor: ``(n, C, output_size, output_size)``, at least fp32.
        """
        feats = [_at_least_fp32(feat) for feat in feats]
        return super().forward(feats, rois, roi_scale_factor)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()
