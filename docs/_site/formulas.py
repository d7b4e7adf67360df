"""Formulas of pages: `W_Q W_K^T` in text becomes slanted letters, indices and powers, as report pages set them.

Code stays as it is. It is done when the site is built, with plain HTML: no script, no font, no network.
"""

import re

GREEK = {"sigma": "σ", "lambda": "λ", "Omega": "Ω", "sum": "∑"}
TEX = {r"\cdot": "·", r"\sim": " ~ ", r"\perp": " ⊥ ", r"\rightarrow": " → ", ">": " > "}
_CODE = r"<(pre|code|script|style|svg)\b.*?</\2>|<[^>]*>"  # and tags, whose attributes are no text
_BASE = rf"(?<![\w&/])(?:[A-Za-z]|{'|'.join(GREEK)}|\d+(?=\^))(?![A-Za-z])|[)|](?=[_^])"
_INDEX = r"_(?:\{([^}<]+)\}|(in|out|hidden|[A-Za-z0-9])(?![A-Za-z0-9]))"
_POWER = r"\^(?:\{([^}<]+)\}|(-?[A-Za-z0-9]+)(?!\w))"
_FORMULA = re.compile(rf"({_CODE})|({_BASE})(?={_INDEX}|{_POWER})(?:{_INDEX})?(?:{_POWER})?", re.DOTALL)


def typeset(page: str) -> str:
    """HTML with its formulas typeset.

    >>> typeset("<code>W_Q</code> is |W_Q^T|^2")
    '<code>W_Q</code> is |<i>W</i><sub>Q</sub><sup>T</sup>|<sup>2</sup>'
    >>> typeset("n_features, sum_{j} sigma_k")
    'n_features, ∑<sub>j</sub> σ<sub>k</sub>'
    """
    return _FORMULA.sub(lambda found: found[1] or _set(*found.group(3, 8, 9, 10, 11)), page)


def _set(base: str, index: str | None, short: str | None, power: str | None, brief: str | None) -> str:
    letter = GREEK.get(base) or (f"<i>{base}</i>" if base.isalpha() else base)
    below, above = index or short, power or brief
    return letter + (f"<sub>{below}</sub>" if below else "") + (f"<sup>{above}</sup>" if above else "")


def without_tex(markdown: str) -> str:
    r"""Quotes of sources that are written in TeX, as plain formulas.

    >>> without_tex(r"where $F=5$, of $\frac{1}{\sqrt{d}}$, $v_1 \cdot v_2 > 0$")
    'where F=5, of 1/√d, v_1 · v_2 > 0'
    """

    def plain(found: re.Match[str]) -> str:
        text = re.sub(r"\\sqrt\{(\w+)\}", r"√\1", found[1])
        text = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", text)
        for name, sign in TEX.items():
            text = text.replace(name, sign)
        return re.sub(r" +", " ", text).strip()

    return re.sub(r"\$([^$]+)\$", plain, markdown)
