import errno
import hashlib
import os

import pytest

from mddm import files


def test_bytes_and_text_are_written_into_new_folders_with_the_usual_mode(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    before = os.umask(0o027)
    try:
        files.write_whole(path, b"\x00\r\n")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"\x00\r\n"
    assert path.stat().st_mode & 0o777 == 0o640
    files.write_whole(str(path), "σ\n")
    assert path.read_bytes() == "σ\n".encode()
    assert os.listdir(path.parent) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_is_told_by_name_before_the_work(tmp_path, small_disk):
    path = tmp_path / "file"
    path.write_text("old")
    with small_disk(1000):
        with pytest.raises(OSError, match=rf"'{path}'") as info:
            files.write_whole(path, bytes(2000))
        assert info.value.errno == errno.EFBIG
        with pytest.raises(OSError, match=rf"'{path}'"):
            files.check_writable(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    files.check_writable(path)
    assert path.read_text() == "old"
    files.check_writable(tmp_path / "new" / "other")
    assert os.listdir(tmp_path / "new") == []


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        files.check_writable(tmp_path)
    with pytest.raises(OSError, match=rf"{tmp_path}/file"):
        files.check_writable(tmp_path / "file" / "other")
    with pytest.raises(OSError, match="/proc/none"):
        files.check_writable("/proc/none/file")
    with pytest.raises(OSError, match="'/proc/none'"):
        files.write_whole("/proc/none", b"")


def test_what_another_writes_replaces_the_file_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with files.whole(path) as partial:
        partial.write_text("first")
        assert not path.exists() and partial.parent == path.parent
    with pytest.raises(RuntimeError), files.whole(path) as partial:
        partial.write_text("second, in pa")
        raise RuntimeError
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file.txt"]


def test_hash_is_that_of_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert files.file_hash(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()[:12]
    with pytest.raises(FileNotFoundError):
        files.file_hash(tmp_path / "none")
