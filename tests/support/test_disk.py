"""Files are whole or not there, also on a disk that is full."""

import os

import pytest

from seqloom.support import disk

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class TestAside:
    @pytest.mark.slow
    def test_settings_and_tokenizer(self, small_disk):
        (small_disk / "settings.yaml").write_text("as before")
        (small_disk / "ballast").write_bytes(bytes((os.statvfs(small_disk).f_bavail - 1) * 4096))
        with pytest.raises(OSError, match=r"the disk is full: settings\.yaml was not saved"):
            disk.write_aside(small_disk / "settings.yaml", lambda aside: aside.write_bytes(bytes(9000)))
        assert (small_disk / "settings.yaml").read_text() == "as before"
        assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "settings.yaml"]

    def test_other_errors_are_not_hidden(self, tmp_path):
        for error in (RuntimeError("shape mismatch"), PermissionError(13, "Permission denied")):
            aside = disk.explained_when_full(tmp_path / "saving-x")
            with pytest.raises(type(error), match=r"shape mismatch|Permission denied"), aside:
                raise error
        assert not disk.is_full(None)
