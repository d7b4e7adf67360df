"""Called by MkDocs: what is drawn, listed or typeset is put into its pages, and nothing that a page shows is fetched.

The site opens from a folder without a network. What the theme or a notebook would fetch is taken from `assets/`, or
left out.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))  # the library of this checkout, not of another

from commands import with_options
from drawings import with_drawings
from formulas import typeset, without_tex
from gallery import gallery
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
AT_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the site that stand where a repository has them."""

SEARCH, BADGE = "https://unpkg.com/iframe-worker/shim", "https://colab.research.google.com/assets/colab-badge.svg"
NO_WORDS = "No description has been provided for this image"
_MATHJAX = re.compile(r'<script src="https://[^"]*mathjax[^"]*">\s*</script>')  # no notebook has formulas
_FETCHED = re.compile(r'(?:<script[^>]* src|<img[^>]* src|<link [^>]*stylesheet[^>]* href)="(https?:[^"]*)"')


def on_config(config: Any) -> Any:
    """Called with the settings: findings that the navigation does not name yet stand at the end of theirs."""
    findings = next(entry["Findings"] for entry in config["nav"] if "Findings" in entry)
    named = {path for entry in findings for path in (entry.values() if isinstance(entry, dict) else [entry])}
    there = sorted(Path(config["docs_dir"]).glob("findings/*.md"))
    findings += [path for file in there if (path := f"findings/{file.name}") not in named]
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Called with the files of the site: those of the repository's root join them."""
    for name in AT_ROOT:
        files.append(
            File.generated(config, name, content=moved((ROOT / name).read_text(encoding="utf-8"), "docs/", ""))
        )
    return files


def moved(markdown: str, start: str, instead: str) -> str:
    """Links to pages from another folder, such as from the repository's root, where they begin with docs/.

    >>> moved("[words](docs/words.md), docs/x", "docs/", "")
    '[words](words.md), docs/x'
    """
    return markdown.replace(f"]({start}", f"]({instead}")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called with the text of each page."""
    for name in AT_ROOT:
        above = "../" * page.file.src_uri.count("/")
        markdown = moved(markdown, f"../{above}{name}", f"{above}{name}")
    if page.file.src_uri == "claims.md":
        return gallery(without_tex(markdown))
    return with_options(with_drawings(markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Called with the HTML of each page."""
    return typeset(fitting(described(content)))


def fitting(content: str) -> str:
    """Each picture of docs/pictures with the one for narrow screens beside it.

    >>> fitting('<img alt="x" src="../pictures/omega.svg" />')[:71]
    '<picture><source media="(max-width: 44em)" srcset="../pictures/omega-na'
    """
    offered = r'<picture><source media="(max-width: 44em)" srcset="\2-narrow.svg">\1</picture>'
    return re.sub(r'(<img[^>]* src="([^"]*pictures/\w+)\.svg"[^>]*>)', offered, content)


def described(content: str) -> str:
    """A notebook's page, whose pictures say for a reader who cannot see them what the heading above them says.

    >>> described(f'<h2>Which <b>shape</b>?<a>#</a></h2><img alt="{NO_WORDS}">')
    '<h2>Which <b>shape</b>?<a>#</a></h2><img alt="Figure: Which shape?">'
    """
    heading = ""

    def name(found: re.Match[str]) -> str:
        nonlocal heading
        if found[1]:
            heading = re.sub(r"<a\b.*?</a>|<[^>]*>", "", found[1], flags=re.DOTALL).strip()
            return found[0]
        return f'alt="Figure: {heading}"'

    return re.sub(rf'<h[1-6][^>]*>(.*?)</h[1-6]>|alt="{NO_WORDS}"', name, content, flags=re.DOTALL)


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
