"""`tms reproduce`: measure claims one after another, keep what is finished, and put it on one page."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tms_hooks import report
from tms_hooks.claims.registry import SOURCES, Claim
from tms_hooks.claims.verdict import Verdict

PACKAGES = ("tms_hooks", "probes")
RESULTS = "verdicts"


class Result(NamedTuple):
    """A claim with its verdict, or with why there is none."""

    claim: Claim
    verdict: Verdict | None
    not_run: str = ""
    kept: bool = False
    """Whether an earlier run with this code had finished it."""

    @property
    def outcome(self) -> str:
        """The verdict, or "not run"."""
        return self.verdict.verdict if self.verdict else "not run"


@cache
def code_version() -> str:
    """A fingerprint of the code of both packages: any change of it makes earlier results stale."""
    digest = hashlib.sha256()
    here = Path(__file__).parents[2]
    for path in sorted(path for package in PACKAGES for path in (here / package).rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def reproduce(claims: Sequence[Claim], out: Path, quick: bool = False) -> Iterator[Result]:
    """Measure each claim, or read it if this code has finished it at this size, and yield the result at once.

    A claim that needs weights or packages that are not there is yielded as not run, with the reason.
    """
    for claim in claims:
        size = claim.quick if quick else claim.full
        earlier = last(claim, out)
        if earlier and earlier.size == size and earlier.code == code_version():
            yield Result(claim, earlier.verdict, kept=True)
            continue
        try:
            verdict = claim.run(quick)
        except (ImportError, ConnectionError) as error:
            yield Result(claim, None, not_run=str(error))
            continue
        _keep(claim, verdict, size, out)
        yield Result(claim, verdict)


class Kept(NamedTuple):
    """A finished claim on disk."""

    verdict: Verdict
    size: int
    code: str


def last(claim: Claim, out: Path) -> Kept | None:
    """The last verdict on this claim under `out`, of whatever code and size.

    Raises:
        ValueError: a file there that holds no verdict.
    """
    path = out / RESULTS / f"{claim.name}.json"
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Kept(Verdict.from_json(plain["verdict"]), plain["size"], plain["code"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no verdict ({error}); delete it and run the claim again") from error


def write_json(results: Sequence[Result], path: Path) -> None:
    """The verdicts as a list of objects; claims that were not run are not in it."""
    _write(path, json.dumps([result.verdict.record() for result in results if result.verdict], indent=1))


def table(results: Sequence[Result]) -> pd.DataFrame:
    """One row a claim: source, statement, verdict, number, interval, threshold, models, seconds."""
    rows = []
    for claim, verdict, *_ in results:
        row: dict[str, str] = {"claim": claim.name, "source": claim.source, "statement": claim.statement}
        if verdict:
            low, high = verdict.interval
            row |= {
                "verdict": verdict.verdict,
                "statistic": f"{verdict.statistic:.3g}",
                "95 % interval": f"{low:.3g} to {high:.3g}",
                "needs": f"{verdict.side} {verdict.threshold:.3g}",
                "models": f"{verdict.n_models:,}",
                "seconds": f"{verdict.seconds:.1f}",
            }
        else:
            row["verdict"] = "not run"
        rows.append(row)
    return pd.DataFrame(rows).fillna("").set_index("claim")


def write_page(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """One self-contained page: the table of claims, then each with its design, verdict, controls and figures."""
    ran = sum(result.verdict is not None for result in results)
    counts = pd.Series([result.outcome for result in results]).value_counts()
    overview = report.Section(
        short="All claims",
        title="What became of each claim",
        text="A claim is supported if the whole 95 % interval of its statistic lies on the stated side of the "
        "threshold, refuted if it lies on the other, else inconclusive. Sources: "
        f"{'; '.join(f'{key}, {name}' for key, name in SOURCES.items())}.",
        finding=", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + ".",
        table=table(results).drop(columns="statement"),  # each is the title of its section
    )
    size = "quick" if quick else "full"
    return report.write(
        out / "index.html",
        "Claims, measured",
        "Statements about toy models of superposition, each decided by an interval against a threshold stated first.",
        [overview, *(_section(result) for result in results)],
        f"tms reproduce: {ran} claims at {size} size, code {code_version()}.",
    )


def write_markdown(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """The same in plain text: the table, then each claim's paragraph and controls, for `docs/claims.md`."""
    rows = table(results).reset_index()
    rows["claim"] = [f"[{name}](#{name})" for name in rows["claim"]]
    cells = [list(rows.columns), ["---"] * len(rows.columns), *rows.to_numpy().tolist()]
    lines = [
        "# Claims, measured",
        "",
        f"Written by `tms reproduce all{' --quick' if quick else ''}`, which leaves it in its output folder as "
        f"`claims.md`; code {code_version()}. Every number is that run's. A claim is supported if the whole 95 % "
        "interval lies on the stated side of the threshold, refuted if on the other, else inconclusive. Sources: "
        + "; ".join(f"{key}, {name}" for key, name in SOURCES.items())
        + ".",
        "",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
    for result in results:
        lines += ["", f"## {result.claim.name}", "", result.claim.design]
        lines += ["", f"**{result.verdict.paragraph if result.verdict else f'Not run: {result.not_run}'}**"]
        if result.verdict:
            controls = (f"| {name} | {value:.4g} |" for name, value in result.verdict.controls.items())
            lines += ["", "| control | value |", "|---|---|", *controls]
    path = out / "claims.md"
    _write(path, "\n".join(lines) + "\n")
    return path


def _section(result: Result) -> report.Section:
    claim, verdict = result.claim, result.verdict
    controls = pd.Series(dict(verdict.controls), name="value").to_frame() if verdict and verdict.controls else None
    return report.Section(
        short=claim.name,
        title=claim.statement,
        text=" ".join(claim.design.removeprefix(claim.statement).split()),
        finding=verdict.paragraph if verdict else f"Not run: {result.not_run}",
        table=controls,
        figures=verdict.figures if verdict else (),
    )


def _keep(claim: Claim, verdict: Verdict, size: int, out: Path) -> None:
    plain = {"code": code_version(), "size": size, "verdict": verdict.to_json()}
    _write(out / RESULTS / f"{claim.name}.json", json.dumps(plain))


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
