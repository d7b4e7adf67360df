"""What the site makes of docstrings: doctests as code blocks, and under each name the examples that use it."""

import re
from pathlib import Path
from typing import Any

import griffe

EXAMPLES = Path(__file__).parents[2] / "examples"
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).+)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The same docstring with every doctest, up to its blank line, in a fence.

    >>> fenced("Adds.\\n\\n>>> 1 + 1\\n2\\n\\nMore.").splitlines()
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'More.']
    """
    return _DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


def used_in(name: str) -> list[str]:
    """The notebooks whose cells call it."""
    call = re.compile(rf"\b{name}\(")
    return [file.stem for file in sorted(EXAMPLES.glob("*.py")) if call.search(file.read_text(encoding="utf-8"))]


class Docstrings(griffe.Extension):
    """Applied to every object that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence doctests, and name the examples."""
        if obj.docstring is None:
            return
        obj.docstring.value = fenced(obj.docstring.value)
        examples = used_in(obj.name) if obj.is_function or obj.is_class else []
        if examples:
            links = ", ".join(f"[{name}](../examples/{name}.ipynb)" for name in examples)
            obj.docstring.value += f"\n\nExamples that use this: {links}."
