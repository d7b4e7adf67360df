"""The claims as a gallery: what docs/claims.md says, with the figures that the claims drew.

`python docs/_site/gallery.py REPORT` takes the figures out of the output folder of `tms reproduce` and keeps them in
docs/gallery. When the site is built, `gallery` puts a card for each row of the page's table in that table's place, and
under each claim its figures. It knows no claim and no outcome: a column is found by its name, and a
claim by the link in its row.
"""

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parents[1] / "gallery"
INDEX = PLACE / "figures.json"
SCRIPT = """<script>
for (const field of document.querySelectorAll(".gallery-filter select, .gallery-filter input"))
  field.addEventListener("input", () => {
    const [outcome, source, words] = ["outcome", "source", "words"].map(
      (name) => document.querySelector(`.gallery-filter [name=${name}]`).value.toLowerCase());
    let shown = 0;
    for (const card of document.querySelectorAll(".gallery a")) {
      card.hidden = !((!outcome || card.dataset.outcome === outcome) && (!source || card.dataset.source === source)
        && card.textContent.toLowerCase().includes(words));
      shown += !card.hidden;
    }
    document.querySelector(".gallery-filter output").textContent = shown + " shown";
  });
</script>"""


def rows(markdown: str) -> list[dict[str, str]]:
    """The first table of the page, a dictionary per claim; `name` is that of the link in its first cell.

    >>> rows("| claim | source | verdict |\\n|---|---|---|\\n| [a](#a) | N | refuted |\\n\\n## a\\n")
    [{'claim': '[a](#a)', 'source': 'N', 'verdict': 'refuted', 'name': 'a'}]
    """
    lines = _table(markdown).splitlines()
    head, *body = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    found = [dict(zip(head, row, strict=False)) for row in body[1:]]
    return [row | {"name": re.findall(r"\(#([^)]+)\)", row[head[0]])[0]} for row in found]


def gallery(markdown: str) -> str:
    """The page of all claims, with cards for its table and figures in its sections.

    Raises:
        ValueError: a table without the columns that a card needs.
    """
    figures = json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.is_file() else {}
    claims = rows(markdown)
    outcome = next((name for name in ("outcome", "verdict") if name in claims[0]), "outcome")
    if lacking := {outcome, "source", "statement"} - claims[0].keys():
        raise ValueError(f"docs/claims.md: its table lacks the column {', '.join(lacking)}, which a card shows")
    cards = "".join(_card(claim, claim[outcome], figures.get(claim["name"], [])) for claim in claims)
    choices = {"outcome": [claim[outcome] for claim in claims], "source": [claim["source"] for claim in claims]}
    fields = "".join(_select(name, list(dict.fromkeys(given))) for name, given in choices.items())
    fields += f'<label>words <input name="words" type="search"></label> <output>{len(claims)} shown</output>'
    form = f'<form class="gallery-filter" onsubmit="return false">{fields}</form>'
    page = markdown.replace(_table(markdown), f'{form}\n\n<div class="gallery">{cards}</div>\n{SCRIPT}\n')
    for name, drawn in figures.items():
        shown = "\n\n" + "".join(_figure(name, caption, file) for caption, file in drawn) + "\n\n"
        section = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
        page = section.sub(lambda found, shown=shown: found[0].rstrip() + shown, page, count=1)
    return page


def _select(name: str, choices: list[str]) -> str:
    options = "".join(f'<option value="{html.escape(each.lower())}">{html.escape(each)}</option>' for each in choices)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label> '


def _image(name: str, caption: str, file: str) -> str:
    return f'<img src="gallery/{file}" alt="{html.escape(f"{name}: {caption}")}" loading="lazy">'


def _figure(name: str, caption: str, file: str) -> str:
    return f"<figure>{_image(name, caption, file)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(markdown: str) -> str:
    found = re.search(r"^\|.*\n\|[ :|-]+\n(?:\|.*\n)+", markdown, re.MULTILINE)
    if found is None:
        raise ValueError("docs/claims.md has no table of claims")
    return found[0]


def _card(claim: dict[str, str], outcome: str, drawn: list[list[str]]) -> str:
    kind, source = html.escape(outcome.lower()), html.escape(claim["source"])
    name = claim["name"]
    picture = _image(name, *drawn[0]) if drawn else _numbers(claim.get("parts", ""))
    return (
        f'<a href="#{name}" data-outcome="{kind}" data-source="{source.lower()}">{picture}'
        f'<span class="outcome {kind.replace(" ", "-")}">{html.escape(outcome)}</span> '
        f'<span class="from">{source}</span> <span class="name">{name}</span>{html.escape(claim["statement"])}</a>'
    )


def _numbers(parts: str) -> str:
    """In the place of a picture: what the first part measured, as large as one.

    >>> _numbers("again: supported, 1 [0.785, 1]; more: refuted, 0 [0, 1]")
    '<span class="no-picture"><b>1</b> [0.785, 1]<br>again</span>'
    """
    found = re.match(r"(.*?): [^,]*, (\S+) (\[.*?\])", parts)
    shown = f"<b>{found[2]}</b> {found[3]}<br>{html.escape(found[1])}" if found else ""
    return f'<span class="no-picture">{shown}</span>'


def keep_figures(report: Path) -> dict[str, list[list[Any]]]:
    """Draw the figures of every claim that is stored in a report; caption and file of each, by claim."""
    import kaleido
    import plotly.io as pio
    from pictures import save

    from tms_hooks import files
    from tms_hooks.claims.registry import claims
    from tms_hooks.claims.reproduce import FORMAT, RESULTS

    kaleido.start_sync_server()  # one browser for all of them
    kept: dict[str, list[list[Any]]] = {}
    for name in claims():
        path = report / RESULTS / f"{name}.json"
        if path.is_file():
            plain, _ = files.read_sealed(path, FORMAT)
            figures = json.loads(plain["verdict"])["figures"]
            kept[name] = [[caption, f"{name}-{i}.webp"] for i, (caption, _) in enumerate(figures)]
            for (_, figure), (_, file) in zip(figures, kept[name], strict=True):
                save(pio.from_json(figure), PLACE / file)
            print(name, len(figures), flush=True)
    kaleido.stop_sync_server()
    return kept


if __name__ == "__main__":
    found = keep_figures(Path(sys.argv[1]))
    for old in {path.name for path in PLACE.glob("*.webp")} - {file for each in found.values() for _, file in each}:
        (PLACE / old).unlink()
    INDEX.write_text(json.dumps(found, indent=1), encoding="utf-8")
