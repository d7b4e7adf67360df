"""Record what the library computes, to the bit, or compare it with a record: for changes that must change nothing.

    python -m tests.bits record FILE [runs tools verdicts]
    python -m tests.bits compare FILE [runs tools verdicts]

Of the verdicts some claims can be chosen: `verdicts:nine-in-three-d,two-active`. Bits depend on the processor's
instructions and on the versions of torch and numpy: compare on the machine that recorded. `compare` lists every entry
that is another, is missing or is new, and fails if there is one.
"""

import json
import sys
from pathlib import Path

from tests.bits import runs, tools, verdicts

PARTS = {"runs": runs.checksums, "tools": tools.checksums, "verdicts": verdicts.numbers}


def main(action: str, file: str, *parts: str) -> int:
    """Record or compare; 1 if anything differs."""
    chosen = {name: claims.split(",") if claims else [] for name, _, claims in (p.partition(":") for p in parts)}
    chosen = chosen or {name: [] for name in PARTS}
    found = {part: PARTS[part](*names) for part, names in chosen.items()}
    path = Path(file)
    if action == "record":
        path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
        print(*(f"{part}: {len(entries)} entries" for part, entries in found.items()), sep="\n")
        return 0
    different = 0
    for part, entries in found.items():
        names = chosen[part]
        before = {n: v for n, v in json.loads(path.read_text())[part].items() if not names or n.split(".")[0] in names}
        wrong = [name for name in sorted(before.keys() | entries) if before.get(name) != entries.get(name)]
        for name in wrong:
            print(f"{part}: {name}: {before.get(name)} before, {entries.get(name)} now")
        print(f"{part}: {len(before.keys() | entries) - len(wrong)} of {len(before.keys() | entries)} are the same")
        different += len(wrong)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
