"""What every claim measures at its quick size: its numbers, to the last digit."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

EARLIER_NAMES = {
    "relative overlap": "interference",
    "with mean": "with_mean",
    "features per dimension": "features_per_dimension",
    "|cosine| with neighbors": "|cosine| with neighbours",
}
"""Controls that have another name since the first record: first part of the name -> as it was."""


def numbers(*claims: str) -> dict[str, float | str]:
    """Name of every number of these verdicts, of all if none is named -> that number."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "verdicts.json")
        command = [
            sys.executable,
            "-c",
            "from tms_hooks.cli import main; main()",
            "reproduce",
            *(claims or ["all"]),
            "--quick",
        ]
        subprocess.run([*command, "--json", str(file), "--out", folder], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, float | str] = {}
        for record in json.loads(file.read_text()):
            name = record["claim"]
            found[f"{name}.verdict"] = record["verdict"]
            found[f"{name}.statistic"] = record["statistic"]
            found |= {f"{name}.interval.{i}": end for i, end in enumerate(record["interval"])}
            found[f"{name}.n_models"] = record["n_models"]
            found |= {f"{name}.control.{_earlier(control)}": value for control, value in record["controls"].items()}
        return found


def _earlier(control: str) -> str:
    what, *rest = control.split(", ")
    return ", ".join([EARLIER_NAMES.get(what, what), *rest])
