"""Files that are whole or not there: the old or the new one, never a part, whatever fails and whoever writes beside."""

import os
import stat
import threading

import pytest

from tms_hooks import files


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


def test_a_file_that_changed_under_its_checksum_is_refused(tmp_path):
    import torch
    from safetensors.torch import save

    data = save({"w": torch.zeros(4)})
    path = files.write_whole(tmp_path / "w.safetensors", data)
    assert files.read_tensors(path, files.fingerprint(data))["w"].equal(torch.zeros(4))
    path.write_bytes(data[:-1] + b"\1")
    assert files.read_tensors(path)["w"][-1] != 0
    with pytest.raises(ValueError, match=r"w\.safetensors is not what was written"):
        files.read_tensors(path, files.fingerprint(data))
