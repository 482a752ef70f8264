"""The text of a config in a checkpoint, which the inferencers of the hosts execute."""

import ast


def holds_values_alone(text: object) -> bool:
    """Whether a text of a config (``Config.pretty_text``) has nothing in it that runs.

    Args:
        text: of assignments to names, of dicts, lists, tuples, numbers, strings, None
            and booleans, with ``dict(...)`` as the only call. ``_base_`` is none of
            these names: it would read other files.
    """
    if not isinstance(text, str):
        return False
    try:
        nodes = ast.parse(text).body
        return bool(nodes) and all(map(_assigns_values, nodes))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _assigns_values(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Assign)
        and all(isinstance(t, ast.Name) and t.id != "_base_" for t in node.targets)
        and _is_value(node.value)
    )


def _is_value(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
        parts = [*node.args, *(word.value for word in node.keywords)]
        return is_dict and all(map(_is_value, parts))
    if isinstance(node, ast.Dict):
        return all(map(_is_value, [*node.keys, *node.values]))
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(map(_is_value, node.elts))
    if isinstance(node, ast.UnaryOp):  # a negative number
        return isinstance(node.operand, ast.Constant)
    return isinstance(node, ast.Constant)
