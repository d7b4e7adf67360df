"""Called by MkDocs: drawings and the gallery are put into their pages, and nothing that a page shows is fetched.

The site opens from a folder without a network. What the theme or a notebook would fetch is taken from `assets/`, or
left out.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

from drawings import with_drawings
from gallery import gallery

SEARCH, BADGE = "https://unpkg.com/iframe-worker/shim", "https://colab.research.google.com/assets/colab-badge.svg"
_MATHJAX = re.compile(r'<script src="https://[^"]*mathjax[^"]*">\s*</script>')  # no notebook has formulas
_FETCHED = re.compile(r'(?:<script[^>]* src|<img[^>]* src|<link [^>]*stylesheet[^>]* href)="(https?:[^"]*)"')


def on_config(config: Any) -> Any:
    """Called with the settings: findings that the navigation does not name yet stand at the end of theirs."""
    findings = next(entry["Findings"] for entry in config["nav"] if "Findings" in entry)
    named = {path for entry in findings for path in (entry.values() if isinstance(entry, dict) else [entry])}
    there = sorted(Path(config["docs_dir"]).glob("findings/*.md"))
    findings += [path for file in there if (path := f"findings/{file.name}") not in named]
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called with the text of each page."""
    return gallery(markdown) if page.file.src_uri == "claims.md" else with_drawings(markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Called with each page before it is written.

    Raises:
        ValueError: the page would fetch something else.
    """
    assets = "../" * page.url.count("/") + "assets"
    output = output.replace(SEARCH, f"{assets}/iframe-worker.js").replace(BADGE, f"{assets}/colab-badge.svg")
    output = _MATHJAX.sub("", output)
    if fetched := _FETCHED.findall(output):
        raise ValueError(f"{page.url} would fetch {fetched}: put it into docs/assets, or leave it out")
    return output
