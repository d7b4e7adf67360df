"""What the site makes of docstrings: doctests as code blocks, and under each name what uses it."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

DOCS = Path(__file__).parents[1]
EXAMPLES = DOCS.parent / "examples"
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).+)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The same docstring with every doctest, up to its blank line, in a fence.

    >>> fenced("Adds.\\n\\n>>> 1 + 1\\n2\\n\\nMore.").splitlines()
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'More.']
    """
    return _DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


def used_in(name: str) -> dict[str, str]:
    """Notebooks whose cells call it, and pages whose code does: title -> path from a page of the reference."""
    call = re.compile(rf"\b{name}\(")
    return {title: path for title, path, code in sources() if call.search(code)}


@cache
def sources() -> list[tuple[str, str, str]]:
    """(Title, path, code) of every notebook, and of every page outside the reference that has code."""
    found = []
    for file in sorted(EXAMPLES.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if title := re.search(r"^# # (.*)$", text, re.MULTILINE):
            found.append((title[1], f"../examples/{file.stem}.ipynb", text))
    for file in sorted(DOCS.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
        if code and (title := re.match(r"# (.*)", text)):
            found.append((title[1], f"../{file.relative_to(DOCS).as_posix()}", code))
    return found


class Docstrings(griffe.Extension):
    """Applied to every object that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence doctests, and name the examples."""
        if obj.docstring is None:
            return
        obj.docstring.value = fenced(obj.docstring.value)
        examples = used_in(obj.name) if obj.is_function or obj.is_class else {}
        if examples:
            links = "; ".join(f"[{title}]({path})" for title, path in examples.items())
            obj.docstring.value += f"\n\nExamples that use this: {links}."
