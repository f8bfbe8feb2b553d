"""Docstrings as the site shows them: what griffe, which reads them, does not know of their style."""

import re

from griffe import Extension, Object


class Docstrings(Extension):
    """Doctests below `Example:` are code, and so is what is indented below a line that ends in `::`."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Change an object's docstring before it is parsed."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.M)
