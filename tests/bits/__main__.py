"""Record what the library computes, to the bit, or compare it with a record: for changes that must change nothing.

    python -m tests.bits record FILE [runs tools verdicts]
    python -m tests.bits compare FILE [runs tools verdicts]

Of the verdicts some claims can be chosen: `verdicts:nine-in-three-d,two-active`. Bits depend on the processor's
instructions and on the versions of torch and numpy, so a record says where it was made. `compare` lists every entry
that is another, is missing or is new, and fails if there is one. Two records stand beside this file. `2d82164.json` is
that of the runs since the torch engine makes all gradients by hand. `b9650a3.json` is that of the code before its
rooms were rebuilt. Between the two, MLPs, Copula and RandomPoints came to be compiled (they were refused, or had other
last bits), AdamW left biases alone, some final losses became closed forms, and the torch engine's sums took another
order; all other compiled runs are the same.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tests.bits import runs, tools, verdicts

PARTS = {"runs": runs.checksums, "tools": tools.checksums, "verdicts": verdicts.numbers}


def machine() -> dict[str, str]:
    """What bits depend on besides the code."""
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main(action: str, file: str, *parts: str) -> int:
    """Record or compare; 1 if anything differs."""
    chosen = {name: claims.split(",") if claims else [] for name, _, claims in (p.partition(":") for p in parts)}
    chosen = chosen or {name: [] for name in PARTS}
    found = {part: PARTS[part](*names) for part, names in chosen.items()}
    path = Path(file)
    if action == "record":
        path.write_text(json.dumps(found | {"machine": machine()}, indent=0, sort_keys=True) + "\n")
        print(*(f"{part}: {len(entries)} entries" for part, entries in found.items()), sep="\n")
        return 0
    record, different = json.loads(path.read_text()), 0
    if record["machine"] != machine():
        print(f"recorded on another machine, whose bits may differ: {record['machine']} there, {machine()} here")
    for part, entries in found.items():
        names = chosen[part]
        before = {n: v for n, v in record[part].items() if not names or n.split(".")[0] in names}
        every = sorted(before.keys() | entries)
        wrong = [name for name in every if before.get(name) != entries.get(name)]
        for name in wrong:
            print(f"{part}: {name}: {before.get(name)} before, {entries.get(name)} now")
        print(f"{part}: {len(every) - len(wrong)} of {len(every)} are the same")
        different += len(wrong)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
