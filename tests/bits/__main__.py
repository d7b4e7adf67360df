"""Record what the library computes, to the bit, or compare it with a record: for changes that must change nothing.

    python -m tests.bits record FILE [runs tools verdicts]
    python -m tests.bits compare FILE [runs tools verdicts]

Bits depend on the processor's instructions and on the versions of torch and numpy: compare on the machine that
recorded. `compare` lists every entry that is another, or is missing, or is new, and fails if there is one.
"""

import json
import sys
from pathlib import Path

from tests.bits import runs, tools, verdicts

PARTS = {"runs": runs.checksums, "tools": tools.checksums, "verdicts": verdicts.numbers}


def main(action: str, file: str, *parts: str) -> int:
    """Record or compare; 1 if anything differs."""
    found = {part: PARTS[part]() for part in parts or PARTS}
    path = Path(file)
    if action == "record":
        path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
        print(*(f"{part}: {len(entries)} entries" for part, entries in found.items()), sep="\n")
        return 0
    before, different = json.loads(path.read_text()), 0
    for part, entries in found.items():
        wrong = [name for name in sorted(before[part].keys() | entries) if before[part].get(name) != entries.get(name)]
        for name in wrong:
            print(f"{part}: {name}: {before[part].get(name)} before, {entries.get(name)} now")
        print(f"{part}: {len(entries) - len(wrong)} of {len(entries)} entries are the same")
        different += len(wrong)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
