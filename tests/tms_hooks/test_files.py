"""Files that are whole or not there: the old or the new one, never a part, whatever fails and whoever writes beside."""

import os
import re
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tms_hooks import files

ROOT = Path(__file__).parents[2]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = files.write_whole(tmp_path / "page", "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_writers_side_by_side_never_mix(tmp_path):
    texts = {letter * 100_000 for letter in "abcd"}
    seen = set()

    def write(text):
        for _ in range(10):
            files.write_whole(tmp_path / "page", text)
            seen.add((tmp_path / "page").read_text())

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= texts
    assert len(list(tmp_path.iterdir())) == 1


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    whole = files.write_whole(tmp_path / "whole", "")
    assert stat.S_IMODE(whole.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_fingerprints_are_of_the_bytes_one_after_another(tmp_path):
    # The SHA-256 of "abc", from FIPS 180-2.
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.fingerprint("a", b"b", files.write_whole(tmp_path / "c", "c")) == wanted
    assert files.fingerprint("ab") != wanted


def test_a_sealed_file_is_read_as_it_was_written_or_refused(tmp_path):
    path, parts = tmp_path / "about.json", {"a": {"w": torch.arange(4.0)}, "b": {}}
    files.write_sealed(path, "form 1", {"x": [1, None]}, parts)
    content, read = files.read_sealed(path, "form 1")
    assert content["x"] == [1, None]
    assert read["a"]["w"].equal(torch.arange(4.0))
    assert read.keys() == parts.keys()
    with pytest.raises(files.DamagedRun, match="has format 'form 1', not 'form 2'"):
        files.read_sealed(path, "form 2")
    path.write_text(path.read_text().replace("null", "true"))
    with pytest.raises(files.DamagedRun, match=r"about\.json is not what was written"):
        files.read_sealed(path, "form 1")


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path):
    path = tmp_path / "place"
    script = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tms_hooks import files
with files.lock(Path({str(path)!r})):
    print(os.getpid(), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        try:
            pid = int(owner.stdout.readline())
            wanted = rf"place is in use by process {pid} on {re.escape(socket.gethostname())}; wait, or use another"
            with pytest.raises(TimeoutError, match=wanted), files.lock(path, wait=0.0):
                pass
        finally:
            owner.kill()
    with files.lock(path, wait=10.0):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_swept_up_by_the_next(tmp_path):
    path = tmp_path / "page"
    (tmp_path / f"{files._scratch(path)}-01234567").write_text("half a pa")
    (tmp_path / f"{files._scratch(tmp_path / 'other')}-01234567").write_text("of a writer that may live")
    files.write_whole(path, "whole")
    assert len(list(tmp_path.iterdir())) == 2
    assert path.read_text() == "whole"


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is no folder, so nothing can be written to"):
        files.check_writable(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="needs about 1,000,000,000,000,000,000 bytes and its disk has"):
        files.check_writable(tmp_path / "new", 10**18)
    with pytest.raises(PermissionError, match="nothing can be written to /proc"):
        files.check_writable(Path("/proc/run"))
    files.check_writable(tmp_path / "new" / "run", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
