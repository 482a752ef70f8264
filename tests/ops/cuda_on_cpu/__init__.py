"""The CUDA kernels, compiled by a C++ compiler and run on the CPU.

``platform.h`` stands in for the CUDA compiler's own names and for the GPU. What this
cannot show is how fast the kernels are, what a real memory model leaves unordered
within a warp, and errors of the CUDA compiler.
"""

import ctypes
import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_double, c_int
from ctypes import c_int64, c_uint, c_void_p
from pathlib import Path

import torch
from torch import Tensor

import setformer_mm.ops
from setformer_mm.ops.fold import Folded

HERE = Path(__file__).parent
CSRC = Path(setformer_mm.ops.__file__).parent / "csrc"
SCALARS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Shared memory of a block, and whether there are clusters: sm_80, sm_86, sm_90.
DEVICES = {"sm_80": (163 << 10, False), "sm_86": (99 << 10, False)}
DEVICES["sm_90"] = (227 << 10, True)


def structure(name: str, **fields: type) -> type[Structure]:
    return type(name, (Structure,), {"_fields_": list(fields.items())})


def _all(kind: type, names: str) -> dict[str, type]:
    return dict.fromkeys(names.split(), kind)


# As in csrc/problem.h.
Sizes = structure("Sizes", **_all(c_int64, "batch tokens heads dim anchors references"))
Fields = structure(
    "Fields",
    **_all(c_int64, "height width reference_height reference_width"),
    **_all(c_double, "alpha epsilon"),
    num_iters=c_int64,
    tau=c_double,
)
Tokens = structure(
    "Tokens",
    data=c_void_p,
    **_all(c_int64, "batch_stride token_stride head_stride"),
)
Maps = structure("Maps", **_all(c_void_p, "anchors score_map value_map"))
Saved = structure("Saved", **_all(c_void_p, "scalings aggregates"))
Problem = structure(
    "Problem",
    sizes=Sizes,
    fields=Fields,
    scalar=c_int,
    wide=c_bool,
    x=Tokens,
    maps=Maps,
    saved=Saved,
)
