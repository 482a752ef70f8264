"""The CUDA kernels, compiled by a C++ compiler and run on the CPU.

``platform.h`` stands in for the CUDA compiler's own names and for the GPU. What this
cannot show is how fast the kernels are, what a GPU's memory leaves unordered among the
threads of a warp, and what the CUDA compiler makes of the code.
"""

import ctypes
import os
import subprocess
from ctypes import Structure, byref, c_bool, c_char_p, c_double, c_int, c_int64
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from setformer_mm.ops.fold import fold

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "setformer_mm" / "ops" / "csrc"

# Bytes of shared memory that a block may use, and whether there are clusters.
DEVICES = {
    "sm_80": (163 << 10, False),
    "sm_86": (99 << 10, False),
    "sm_90": (227 << 10, True),
}


# What csrc/problem.h declares.
_SCALARS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _structure(name: str, *fields: tuple[type, str]) -> type[Structure]:
    names = [(field, kind) for kind, many in fields for field in many.split()]
    return type(name, (Structure,), {"_fields_": names})


_Pointer = ctypes.c_void_p
_Sizes = _structure("Sizes", (c_int64, "batch tokens heads dim anchors references"))
_Fields = _structure(
    "Fields",
    (c_int64, "height width reference_height reference_width"),
    (c_double, "alpha epsilon"),
    (c_int64, "num_iters"),
    (c_double, "tau"),
)
_Tokens = _structure(
    "Tokens", (_Pointer, "data"), (c_int64, "batch_stride token_stride head_stride")
)
_Maps = _structure("Maps", (_Pointer, "anchors score_maps value_map"))
_Saved = _structure("Saved", (_Pointer, "scalings aggregates"))
_Problem = _structure(
    "Problem",
    (_Sizes, "sizes"),
    (_Fields, "fields"),
    (c_int, "scalar"),
    (_Pointer, "valid"),
    (_Tokens, "x"),
    (_Maps, "maps"),
    (_Saved, "saved"),
)


def compile_kernels(folder: Path, csrc: Path = CSRC, *options: str) -> "Kernels":
    """Compile the kernels in ``csrc`` to a library in ``folder`` and load it."""
    library = folder / "kernels_on_cpu.so"
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O1", "-w", *options]
    command += [
        "-fPIC",
        "-shared",
        f"-I{csrc / 'cuda'}",
        str(HERE / "kernels_on_cpu.cpp"),
    ]
    subprocess.run([*command, "-o", str(library)], check=True)
    return Kernels(library)


class Kernels:
    """The compiled kernels on one of ``DEVICES``.

    Args:
        library (Path): What :func:`compile_kernels` made of them.
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in ("workspace", "forward", "backward"):
            getattr(self._library, name).restype = c_char_p

    def imitate(self, device: str, seed: int) -> None:
        """Choose the device, and the random order in which its warps take turns."""
        shared_bytes, has_clusters = DEVICES[device]
        self._library.imitate(
            c_int64(shared_bytes), c_bool(has_clusters), ctypes.c_uint(seed)
        )

    def set_attention(
        self,
        x: Tensor,
        anchors: Tensor,
        references: Tensor,
        return_references: Tensor | None = None,
        alpha=2.0,
        **fields,
    ) -> Tensor:
        """:func:`setformer_mm.ops.set_attention` by these kernels."""
        folded = fold(anchors, references, return_references, alpha)
        return _SetAttention.apply(x, *folded[:3], self, alpha, fields)

    def call(self, name: str, *arguments) -> None:
        """Call a function of the library."""
        error = getattr(self._library, name)(*arguments)
        if error is not None:
            raise RuntimeError(error.decode())

    def run(self, direction: str, problem: Structure, *arguments: Structure) -> None:
        """Run a pass in memory that begins as NaN."""
        size = c_int64()
        is_backward = c_bool(direction == "backward")
        self.call("workspace", byref(problem), is_backward, byref(size))
        workspace = torch.full((size.value,), 0xFF, dtype=torch.uint8)
        self.call(
            direction,
            byref(problem),
            *map(byref, arguments),
            _Pointer(workspace.data_ptr()),
        )


class _SetAttention(torch.autograd.Function):
    """As setformer_mm/ops/registration.py, without torch's dispatcher in between."""

    @staticmethod
    def forward(ctx, x, anchors, score_maps, value_map, kernels, alpha, fields):
        batch, num_tokens, heads, _ = x.shape
        _, num_anchors, both_references = score_maps.shape
        num_iters = fields.get("num_iters", 1)
        saved = (
            _nan(anchors, batch, heads, num_iters + 1, both_references),
            _nan(anchors, batch, heads, both_references // 2, num_anchors + 1),
        )
        maps = tuple(t.detach().contiguous() for t in (anchors, score_maps, value_map))
        out = _rows(x, fields, batch, num_tokens, heads, num_anchors)
        kernels.run("forward", _problem(x, maps, saved, alpha, **fields), _tokens(out))
        ctx.kernels, ctx.alpha, ctx.fields = kernels, alpha, fields
        ctx.save_for_backward(x, *maps, *saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, *maps_and_saved = ctx.saved_tensors
        maps, saved = maps_and_saved[:3], maps_and_saved[3:]
        grad_x = _rows(x, ctx.fields, *x.shape)
        grad_maps = [_nan(t, *t.shape) for t in maps]
        ctx.kernels.run(
            "backward",
            _problem(x, maps, saved, ctx.alpha, **ctx.fields),
            _tokens(grad_out.contiguous()),
            _tokens(grad_x),
            _Maps(*(t.data_ptr() for t in grad_maps)),
        )
        return grad_x, *grad_maps, None, None, None


def _nan(like: Tensor, *shape: int) -> Tensor:
    return like.new_full(shape, float("nan"))


def _rows(like: Tensor, fields: dict, *shape: int) -> Tensor:
    """The kernels write every token, or all that are valid beside zeros."""
    return _nan(like, *shape) if "valid_shape" not in fields else like.new_zeros(shape)


def _tokens(t: Tensor) -> Structure:
    assert t.stride(3) == 1 or t.numel() == 0
    return _Tokens(t.data_ptr(), *t.stride()[:3])


def _problem(
    x: Tensor,
    maps: tuple[Tensor, ...],
    saved: tuple[Tensor, ...],
    alpha: float,
    spatial_shape: tuple[int, int] = (0, 0),
    reference_shape: tuple[int, int] = (0, 0),
    epsilon: float = 0.01,
    num_iters: int = 1,
    tau: float | None = 0.5,
    valid_shape: Tensor | None = None,
) -> Structure:
    _, num_anchors, both_references = maps[1].shape
    shapes = *spatial_shape, *reference_shape
    return _Problem(
        _Sizes(*x.shape, num_anchors, both_references // 2),
        _Fields(*shapes, alpha, epsilon, num_iters, tau or 0.0),
        _SCALARS.index(x.dtype),
        None if valid_shape is None else valid_shape.data_ptr(),
        _tokens(x),
        _Maps(*(t.data_ptr() for t in maps)),
        _Saved(*(t.data_ptr() for t in saved)),
    )
