"""Drawings of models, written as text: a fence ```flow becomes a picture that needs no script and follows the theme.

A line is a step of the model, from its inputs down. `[x W_E]` is an operation; a line with a hook point's name is that
point, followed by the axes of what it holds; two more spaces begin a branch, which reads what is at that place; `+`
adds the branch above to the line that it left.
"""

import html
import re

ROW, LANE, LEFT, WIDTH = 30, 24, 14, 372
_FENCE = re.compile(r"^```flow\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def with_drawings(markdown: str) -> str:
    """The same page with every `flow` fence as a picture."""
    return _FENCE.sub(lambda found: svg(found[1]), markdown)


def hook_names(markdown: str) -> list[list[str]]:
    """The hook points of each drawing of a page.

    >>> hook_names("```flow\\n[x W_E]\\nhook_embed batch hidden\\n```")
    [['hook_embed']]
    """
    return [re.findall(r"^ *([\w.]*hook_\w+)", found, re.MULTILINE) for found in _FENCE.findall(markdown)]


def svg(text: str) -> str:
    """One drawing, on one line of HTML.

    Raises:
        ValueError: a `+` with no branch above it.
    """
    rows = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines() if line.strip()]
    drawn = []
    for number, (indent, line) in enumerate(rows):
        lane, y = indent // 2, ROW * number + ROW / 2
        x = LEFT + LANE * lane
        above = next((i for i in range(number - 1, -1, -1) if rows[i][0] <= indent), None)
        if above is not None:  # the line down from the last step of this lane, or of the one that it leaves
            from_x, from_y = LEFT + LANE * (rows[above][0] // 2), ROW * above + ROW / 2
            bend = f"C{from_x} {from_y + 0.6 * ROW},{x} {from_y + 0.4 * ROW},{x} {from_y + ROW} L{x} {y}"
            drawn.append(f'<path d="M{from_x} {from_y} {bend}"/>')
        if line == "+":
            if number == 0 or rows[number - 1][0] <= indent:
                raise ValueError(f"'+' on line {number + 1} adds nothing: put it below the branch that it adds")
            last_x, last_y = LEFT + LANE * (rows[number - 1][0] // 2), y - ROW
            drawn.append(f'<path d="M{last_x} {last_y} C{last_x} {y},{last_x} {y},{x} {y}"/>')
    for number, (indent, line) in enumerate(rows):
        x, y = LEFT + LANE * (indent // 2), ROW * number + ROW / 2
        if line == "+":
            drawn.append(f'<circle class="add" cx="{x}" cy="{y}" r="8"/><text x="{x}" y="{y + 4}" class="mid">+</text>')
        elif line.startswith("["):
            words = html.escape(line.strip("[]"))
            size = 7.0 * len(line.strip("[]")) + 16
            drawn.append(f'<rect x="{x - 8}" y="{y - 11}" width="{size}" height="22" rx="5"/>')
            drawn.append(f'<text x="{x}" y="{y + 4}">{words}</text>')
        else:
            name, _, axes = line.partition(" ")
            drawn.append(f'<circle class="hook" cx="{x}" cy="{y}" r="5"/><text x="{x + 12}" y="{y + 4}" class="name">')
            drawn.append(f'{html.escape(name)}<tspan class="axes" dx="8">{html.escape(axes)}</tspan></text>')
    height = ROW * len(rows)
    label = html.escape(", ".join(line for _, line in rows))
    return (
        f'<svg class="flow" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{label}">'
        f"{''.join(drawn)}</svg>"
    )
