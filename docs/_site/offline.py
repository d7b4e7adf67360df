"""The site opens from a folder without a network: what the theme would fetch is taken from `assets/`, or left out."""

import re
from typing import Any

SEARCH = "https://unpkg.com/iframe-worker/shim"
_MATHJAX = re.compile(r'<script src="https://[^"]*mathjax[^"]*">\s*</script>')  # no notebook has formulas


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Called by MkDocs with each page before it is written.

    Raises:
        ValueError: the page would fetch something else.
    """
    depth = page.url.count("/")
    output = _MATHJAX.sub("", output.replace(SEARCH, f"{'../' * depth}assets/iframe-worker.js"))
    if fetched := re.findall(r'(?:<script[^>]* src|<link [^>]*stylesheet[^>]* href)="(https?:[^"]*)"', output):
        raise ValueError(f"{page.url} would fetch {fetched}: put it into docs/assets, or leave it out")
    return output
