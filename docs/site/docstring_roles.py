"""Sphinx's roles in docstrings, as :func:`fold`, become links of the API pages."""

import re

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([\w.]+)`")


class DocstringRoles(griffe.Extension):
    """Replace roles by links, or by code if no page shows what they name."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        """Look at the docstring of an object once it is read."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = ROLE.sub(lambda match: link(match[1], obj), text)


def link(name: str, scope: griffe.Object) -> str:
    """A link to ``name``, as ``scope`` knows it."""
    short = name.rpartition(".")[2]
    first, _, rest = name.partition(".")
    try:
        target = scope.resolve(first) + (f".{rest}" if rest else "")
    except griffe.NameResolutionError:
        target = name
    return f'<autoref identifier="{target}" optional><code>{short}</code></autoref>'
