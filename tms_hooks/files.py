"""Files that are there whole or not at all, and checks that what is read is what was written.

A file is written under a name that nobody else uses, pushed to the disk, and then renamed: a rename happens at once, so
whoever looks, at whatever moment the writer is killed, finds the old file or the new one and never a part.

What belongs together is *sealed*: a JSON file that holds its own checksum, and the name, size and checksum of every
safetensors file beside it. Written over, the new files stand beside the old ones until the JSON file, renamed over the
old one, points to them; only then the old ones go. A reader that was overtaken finds a file missing or changed, sees
that the JSON file is another by now, and reads again. Nothing is used before all of it was verified.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tms_hooks.progress import interrupts

SCRATCH = ".tms-"
"""How names of unfinished files and of locks begin."""
MOST_JSON = 2**26
"""Bytes of a JSON file above which it is not read: a thousand times what the largest runs have."""
BLANK = "0" * 64
"""Stands for the checksum of a JSON file while that is computed."""
TRIES = 100
"""Times that a reader begins again because it was overtaken by a writer."""


class DamagedRun(ValueError):
    """A saved run, checkpoint or claim that is not what was written, or was not written by this version."""


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Write a file whole or not at all, over an earlier one and into a folder that need not be there yet.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(f"{folder}/new/page.html", "<p>Grüße</p>").read_text(encoding="utf-8")
    '<p>Grüße</p>'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        _replace(path, data, path)
    return path


def write_sealed(
    path: Path, form: str, about: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]] | None = None
) -> None:
    """Write a JSON file, and each part as a safetensors file beside it: all of it, or what was there before stays.

    Args:
        path: of the JSON file.
        form: what it says that it is, with a version.
        about: its content, without the keys "format", "sha256" and "files".
        parts: tensors by the stem of their file.
    """
    parts = parts or {}
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock(path):
            listed: dict[str, dict[str, Any]] = {}
            try:
                for name, tensors in parts.items():
                    data = save({key: t.detach().cpu().contiguous() for key, t in tensors.items()})
                    file = path.with_name(f"{name}.safetensors")
                    if os.path.lexists(file):  # an earlier part stays until `path` names the new one
                        file = path.with_name(f"{name}.{uuid4().hex[:8]}.safetensors")
                    _replace(file, data, path)
                    listed[name] = {"file": file.name, "size": len(data), "sha256": fingerprint(data)}
                _replace(path, _seal({"format": form, "sha256": BLANK, "files": listed, **about}), path)
            finally:
                _drop_strays(path, form, parts)
    finally:
        if made:
            with suppress(OSError):  # it holds something, unless nothing could be written
                path.parent.rmdir()


def read_sealed(path: Path, form: str) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What `write_sealed` wrote, verified: the JSON file's content, and the tensors of each part, in memory.

    Raises:
        DamagedRun: a file that is missing, torn, changed, no plain file, or of something else.
    """
    for _ in range(TRIES):
        data, content = _unseal(path, form)
        try:
            return content, {name: _read_part(path, listed) for name, listed in content["files"].items()}
        except DamagedRun:
            if _read(path, MOST_JSON) == data:  # else it was written over meanwhile
                raise
    raise DamagedRun(f"{path} was written over {TRIES} times while it was read; read it when its writers are done")


@contextmanager
def lock(path: Path, wait: float = 60.0) -> Iterator[None]:
    """Be the only one that writes at `path`. The kernel ends a lock with its process, however that ends.

    Raises:
        TimeoutError: somebody else still holds it after `wait` seconds; the message says who.
    """
    place = path.with_name(f"{_scratch(path)}.lock")
    held = FileLock(place, poll_interval=0.01)
    try:
        held.acquire(timeout=wait)
    except Timeout:
        owner = ""
        with suppress(OSError, ValueError):
            owner = place.read_text(encoding="utf-8")
        raise TimeoutError(f"{path} is in use by {owner or 'another process'}; wait, or use another") from None
    try:
        with suppress(OSError):  # of a full disk: the message of another's error is not worth failing
            place.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            place.unlink()
        held.release()


def sweep_up(locked: Path) -> None:
    """Delete what killed writers left in the folder of `locked`, for who holds that and alone writes there."""
    for left in locked.parent.glob(f"{SCRATCH}*"):
        if left.name != f"{_scratch(locked)}.lock":
            left.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether a writer of `path` was killed before anything stood there: its lock is left."""
    return path.with_name(f"{_scratch(path)}.lock").exists() and not path.exists()


def check_writable(folder: Path, size: int = 0) -> None:
    """Refuse a folder, there or not, in which a file of so many bytes could not be written.

    Raises:
        OSError: a file is in the way, writing is not allowed, or there is no room.
    """
    home = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not home.is_dir():
        raise NotADirectoryError(f"{home} is no folder, so nothing can be written to {folder}; use another path")
    try:
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise PermissionError(f"nothing can be written to {home} ({error.strerror}); use another path") from error
    if (free := shutil.disk_usage(home).free) < size:
        raise OSError(f"{folder} needs about {size:,} bytes and its disk has {free:,}; make room, or use another path")


def rescue(path: Path, write: Callable[[Path], Any]) -> None:
    """Write at `path`; if that fails, to the system's temporary folder. Ctrl-C is heard once it is written.

    Raises:
        OSError: that of the first attempt; its message says where the result is instead.
    """
    with interrupts() as interrupted:
        try:
            write(path)
        except OSError as error:
            why = error.strerror or str(error)
            try:
                other = Path(tempfile.mkdtemp(prefix="tms-"), path.resolve().name or "result")
                write(other)
            except OSError as worse:
                place = tempfile.gettempdir()
                message = f"{path} could not be written ({why}), nor could anything in {place} ({worse})"
            else:
                message = f"{path} could not be written ({why}); the result is in {other} instead"
            raise type(error)(message) from error
    if interrupted():
        raise KeyboardInterrupt


def keep(path: Path, content: bytes | str) -> Path:
    """`write_whole` for what took minutes to make: it goes to the temporary folder if it cannot stand at `path`.

    Raises:
        OSError: it is elsewhere; the message says where.
    """
    rescue(path, lambda place: write_whole(place, content))
    return path


def fingerprint(*parts: bytes | str | Path) -> str:
    """SHA-256 of the parts, one after another, in hexadecimal; a path stands for what the file holds."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def _scratch(path: Path) -> str:
    """How the names of unfinished files and the lock of `path` begin; short, however long its own name is."""
    return f"{SCRATCH}{fingerprint(path.name)[:12]}"


def _replace(path: Path, data: bytes | str, locked: Path) -> None:
    """Write a file at once, under the lock of `locked`, sweeping up what killed writers left that held it."""
    for left in path.parent.glob(f"{_scratch(locked)}-*"):
        left.unlink(missing_ok=True)
    scratch = path.with_name(f"{_scratch(locked)}-{uuid4().hex[:8]}")
    try:
        with open(scratch, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _drop_strays(path: Path, form: str, names: Iterable[str]) -> None:
    """Delete those parts of these names that the JSON file does not name: earlier ones, or unfinished ones."""
    with suppress(DamagedRun):  # what a damaged one names is not known, and stays
        named = {part["file"] for part in _unseal(path, form)[1]["files"].values()} if path.exists() else set()
        _sync(path.parent)  # the JSON file must not come back after what it names is gone
        for name in names:
            pattern = re.compile(rf"{re.escape(name)}(\.[0-9a-f]{{8}})?\.safetensors")
            for file in path.parent.iterdir():
                if pattern.fullmatch(file.name) and file.name not in named:
                    file.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Push a folder's names to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _seal(content: Mapping[str, Any]) -> str:
    """A JSON text in which the checksum of all of it, itself left blank, stands in place of `BLANK`."""
    text = json.dumps(content, indent=1, default=_plain)
    return text.replace(BLANK, fingerprint(text), 1)


def _unseal(path: Path, form: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes and the content of a sealed JSON file."""
    data = _read(path, MOST_JSON)
    found = re.match(rb'\{\s*"format": "([^"\\]{1,100})"', data)
    said = found and found[1].decode(errors="replace")
    if said != form:
        raise DamagedRun(f"{path} has format {said!r}, not {form!r}; it is damaged, or another version wrote it")
    seal = re.compile(rb'(?<=\n "sha256": ")[0-9a-f]{64}').search(data, 0, 300)
    if seal is None or fingerprint(data[: seal.start()], BLANK, data[seal.end() :]) != seal[0].decode():
        raise DamagedRun(f"{path} is not what was written: its checksum does not match")
    try:
        content = json.loads(data)
        listed = [(str(part["file"]), int(part["size"]), str(part["sha256"])) for part in content["files"].values()]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise DamagedRun(f"{path} lists no files: {type(error).__name__}: {error}") from error
    if any(Path(file).name != file for file, _, _ in listed):
        raise DamagedRun(f"{path} lists files outside {path.parent}")
    return data, content


def _read_part(path: Path, listed: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one part, which must be the file that the JSON file beside it lists."""
    file, size = path.with_name(listed["file"]), int(listed["size"])
    data = _read(file, size)
    if len(data) != size:
        raise DamagedRun(f"{file} has {len(data):,} bytes and not the {size:,} that were written")
    if fingerprint(data) != listed["sha256"]:
        raise DamagedRun(f"{file} is not what was written: its checksum does not match")
    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedRun(f"{file} is no safetensors file: {error}") from error


def _read(path: Path, most: int) -> bytes:
    """What a plain file holds: no link is followed, no pipe or device waited for, no more than `most` bytes read."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise DamagedRun(f"{path.name} is missing from {path.parent}; what is there is damaged") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise DamagedRun(f"{path} is a link or a device, and no plain file") from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedRun(f"{path} is a folder, a pipe or a device, and no plain file")
        if found.st_size > most:
            raise DamagedRun(f"{path} has {found.st_size:,} bytes and not the {most:,} that it may have")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most + 1)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """A numpy number as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON; give a plain number")
