"""Files that are there whole or not at all, and checks that what is read is what was written.

A file is written under a name that nobody else uses, pushed to the disk, and then renamed: a rename happens at once, so
whoever looks, at whatever moment the writer is killed, finds the old file or the new one and never a part.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Write a file whole or not at all, over an earlier one and into a folder that need not be there yet.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(f"{folder}/new/page.html", "<p>Grüße</p>").read_text(encoding="utf-8")
    '<p>Grüße</p>'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{uuid4().hex}")
    try:
        with open(scratch, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `path` when the block ends well; else `path` stays as it was."""
    home = path.resolve()
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        if home.exists():
            home.rename(old)
        try:
            new.rename(home)
        except BaseException:
            if old.exists():
                old.rename(home)
            raise


def fingerprint(*parts: bytes | str | Path) -> str:
    """SHA-256 of the parts, one after another, in hexadecimal; a path stands for what the file holds."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def read_json(path: Path, form: str) -> dict[str, Any]:
    """The JSON object of a file, which must say that its "format" is `form`.

    Raises:
        ValueError: it is torn, or of another format.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); it is damaged") from error
    found = plain.get("format") if isinstance(plain, dict) else type(plain).__name__
    if found != form:
        raise ValueError(f"{path} has format {found!r}, not {form!r}; something else or another version wrote it")
    return dict(plain)


def read_tensors(path: Path, checksum: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be whole and, if given, have this fingerprint.

    Raises:
        ValueError: it is missing, torn or changed.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing from {path.parent}; what is there is damaged") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); it is damaged") from error
    if checksum is not None and fingerprint(data) != checksum:
        raise ValueError(f"{path} is not what was written: its checksum does not match")
    return tensors
