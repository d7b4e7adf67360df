"""Which tests `make test-fast` leaves out: the slowest quarter, named in `tests/slow.txt`.

`make slow` measures every test and writes the list anew. Between two measurements pytest names, at its end, whatever
took long and is not on the list: a new test that should be made cheaper, or be listed.

    python -m tests.slow TIMES.xml [MORE.xml ...]       from times that `pytest --junitxml` has written
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).with_name("slow.txt")
LONG = 5.0
"""Seconds of a test, all its parameters together, above which pytest names it unless the list does."""


def times(files: Iterable[Path]) -> Counter[str]:
    """Seconds of each test, all its parameters together, by `file::test`."""
    seconds = Counter[str]()
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            name = case.attrib["name"].split("[")[0]
            seconds[f"{case.attrib['file']}::{name}"] += float(case.attrib["time"])
    return seconds


def slowest(seconds: Counter[str]) -> list[str]:
    """The quarter of the tests that takes longest, in the order of their names."""
    return sorted(name for name, _ in seconds.most_common(len(seconds) // 4))


def unlisted(seconds: Counter[str]) -> list[str]:
    """A line for each of these tests that takes long enough to belong on the list, the slowest first."""
    return [f"{took:.0f} s  {name}" for name, took in seconds.most_common() if took >= LONG]


def main() -> None:
    """Write the list, and say what it leaves."""
    seconds = times(map(Path, sys.argv[1:]))
    chosen = slowest(seconds)
    LIST.write_text("".join(f"{name}\n" for name in chosen), encoding="utf-8")
    left = seconds.total() - sum(seconds[name] for name in chosen)
    print(
        f"{len(chosen)} of {len(seconds)} tests are slow; the others take {left:.0f} of {seconds.total():.0f} seconds"
    )


if __name__ == "__main__":
    main()
