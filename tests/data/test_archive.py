"""ROCO's radiology part is unpacked whole or not at all, and nothing leaves its folder."""

import shutil
import stat
import zipfile

import pytest
from helpers.archives import RADIOLOGY, files_below, make_zip, pretend_free

from roco_caption.core.errors import UserError
from roco_caption.data.archive import DamagedArchive, unpack_radiology


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def unpack(tmp_path, folder):
    def run(archive: bytes) -> int:
        (tmp_path / "roco.zip").write_bytes(archive)
        return unpack_radiology(tmp_path / "roco.zip", folder)

    return run


def test_unpacks_radiology_only(unpack, folder):
    assert unpack(make_zip()) == len(RADIOLOGY)
    assert files_below(folder) == RADIOLOGY


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "all_data/train/radiology/../../../../evil",
        "all_data/train/radiology/images/..",
        "C:/evil",
        "c:evil",
        "all_data/train/radiology/D:/evil",
        "all_data\\train\\radiology\\evil",
        "all_data/train/radiology/..\\..\\evil",
        "all_data/train/radiology/evil\0.jpg",
    ],
)
def test_names_that_lead_outside_are_refused(unpack, tmp_path, name):
    info = zipfile.ZipInfo("x" * len(name))
    archive = make_zip((info, b"evil")).replace(b"x" * len(name), name.encode())
    with pytest.raises(UserError, match="would be written outside") as caught:
        unpack(archive)
    assert repr(name) in str(caught.value)
    assert not isinstance(caught.value, DamagedArchive)
    assert files_below(tmp_path) == {"roco.zip"}


@pytest.mark.parametrize("name", ["all_data/train/radiology/a..b.jpg", "all_data/readme: 1.txt"])
def test_harmless_names_are_not_refused(unpack, name):
    assert unpack(make_zip((name, b"x"))) >= len(RADIOLOGY)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(unpack, tmp_path, kind):
    info = zipfile.ZipInfo("all_data/train/radiology/images/link.jpg")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(UserError, match=r"images/link\.jpg' is a link or a device"):
        unpack(make_zip((info, b"/etc/passwd")))
    assert files_below(tmp_path) == {"roco.zip"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_count_as_damage(unpack, method):
    info = zipfile.ZipInfo("all_data/train/radiology/images/a.jpg")
    info.compress_type = method
    with pytest.raises(DamagedArchive, match=rf"a\.jpg' is compressed by method {method}"):
        unpack(make_zip((info, b"pixels")))


def with_stated_size(archive: bytes, path: str, size: int) -> bytes:
    """Change the size that the table of contents states for an entry."""
    at = archive.rindex(path.encode()) - 46  # its record in the central directory
    assert archive[at : at + 4] == b"PK\1\2"
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


@pytest.mark.parametrize("size", [10, 29_999, 30_001, 50_000])
def test_entries_that_state_a_wrong_size_are_refused(unpack, folder, size):
    path = "all_data/train/radiology/images/PMC1_train.jpg"
    with pytest.raises(DamagedArchive, match=r"PMC1_train\.jpg"):
        unpack(with_stated_size(make_zip(), path, size))
    assert not any("PMC1_train" in name for name in files_below(folder))


def test_stated_sizes_must_fit_on_the_disk(unpack, folder, monkeypatch):
    path = "all_data/train/radiology/images/PMC1_train.jpg"
    pretend_free(monkeypatch, 4 * 10**9)
    with pytest.raises(UserError, match=r"4\.2\d GB needed, 4\.00 GB free"):
        unpack(with_stated_size(make_zip(), path, 2**32 - 100_000_000 + 20_000_000))
    assert files_below(folder) == set()


def test_encrypted_entry_is_an_error(unpack):
    archive = make_zip()
    at = archive.rindex(b"all_data/train/radiology/captions.txt") - 46
    with pytest.raises(DamagedArchive, match=r"captions\.txt.*encrypted"):
        unpack(archive[: at + 8] + b"\1" + archive[at + 9 :])


def test_interrupted_unpacking_continues(unpack, folder, monkeypatch):
    archive = make_zip()
    copy, names = shutil.copyfileobj, []

    def interrupted(source, file, length):
        names.append(source.name)
        file.write(b"half a file")
        if len(names) == 5:
            raise KeyboardInterrupt
        file.seek(0)
        copy(source, file, length)

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive)
    assert not (folder / "all_data").exists()
    assert len(files_below(folder)) == 4

    first, names = names[:4], names[5:]  # the fifth was interrupted
    monkeypatch.setattr(
        shutil, "copyfileobj", lambda s, *rest: (names.append(s.name), copy(s, *rest))
    )
    assert unpack(archive) == len(RADIOLOGY)
    assert set(names) == RADIOLOGY - set(first)
    assert files_below(folder) == RADIOLOGY
