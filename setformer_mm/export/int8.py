"""INT8 weights for the linear layers of exported models."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from .formats import SECTION


def quantize_onnx(path: Path) -> int:
    """Make the linear layers of an ONNX file dynamic INT8, in place.

    Weights are INT8 from -64 to 64, one scale an output channel; inputs become INT8
    with a scale that is found as they come. Half the range, because x86 processors
    without VNNI add products in pairs of 16 bits, which hold 2 * 255 * 64 and cut off
    what larger weights would give. The operator's own products stay in float32: what
    folds the anchors spans too many orders of magnitude.

    Args:
        path (Path): The file.

    Returns:
        int: How many layers.

    Raises:
        ValueError: If there are none, or ONNX Runtime leaves some of them out.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    matrices = {i.name for i in model.graph.initializer if len(i.dims) == 2}
    # A Gemm becomes a MatMul of this name before names are looked for.
    suffixes = {"MatMul": "", "Gemm": "_MatMul"}
    layers = [
        node.name + suffixes[node.op_type]
        for node in model.graph.node
        if node.op_type in suffixes and node.input[1] in matrices
    ]
    _require_layers(layers)  # for the quantiser, none of them means all nodes
    metadata = {p.key: p.value for p in model.metadata_props}
    with _silence():
        quantize_dynamic(
            model,
            path,
            nodes_to_quantize=layers,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    done = sum(node.op_type == "MatMulInteger" for node in model.graph.node)
    return _require_all(done, layers)


def compress_openvino(path: Path) -> int:
    """Make the linear layers' weights of an OpenVINO file INT8, in place.

    They are turned into floats again where they are used.

    Args:
        path (Path): The ``.xml`` file; its ``.bin`` is written, too.

    Returns:
        int: How many layers.

    Raises:
        ValueError: If there are none, or nncf leaves some of them out.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    metadata = model.get_rt_info([SECTION]).value
    layers, others = [], []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("MatMul", "Convolution"):
            weight = node.input_value(1)
            is_layer = (
                node.get_type_name() == "MatMul"
                and weight.get_node().get_type_name() == "Constant"
                and weight.get_partial_shape().rank.get_length() == 2
            )
            (layers if is_layer else others).append(node.get_friendly_name())
    _require_layers(layers)
    with _silence():
        compressed = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        )
    for name, value in metadata.items():
        compressed.set_rt_info(value, [SECTION, name])
    # Not over the file that is still being read from.
    beside = path.with_stem(f"{path.stem}_int8")
    openvino.save_model(compressed, beside, compress_to_fp16=False)
    for suffix in (".bin", ".xml"):
        beside.with_suffix(suffix).replace(path.with_suffix(suffix))
    nodes = {node.get_friendly_name(): node for node in compressed.get_ordered_ops()}
    return _require_all(sum(_has_int8_weight(nodes[n]) for n in layers), layers)


def _has_int8_weight(node) -> bool:
    """Whether what a product of OpenVINO multiplies by is made of INT8."""
    weight = node.input_value(1).get_node()
    while weight.get_type_name() != "Constant":
        weight = weight.input_value(0).get_node()
    return weight.get_element_type().get_type_name() == "i8"


def _require_layers(layers: list[str]) -> None:
    if not layers:
        raise ValueError("INT8 is for linear layers, and this model has none")


def _require_all(done: int, layers: list[str]) -> int:
    if done != len(layers):
        raise ValueError(
            f"all {len(layers)} linear layers must become INT8, and {done} have"
        )
    return done


@contextmanager
def _silence() -> Iterator[None]:
    """Both libraries tell about themselves, in the log and on the screen."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
