"""Folders, archives and arrays of images: names, labels, order, draws, damage."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data import ImageSet, Preprocessing, labels_for, open_images, sources
from edgevit.errors import DataError

PREPROCESSING = Preprocessing(
    input_size=(3, 8, 8),
    resize_size=8,
    interpolation="bilinear",
    crop_pct=1.0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def png(value: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def tree(classes: int = 3, images: int = 4) -> dict[str, bytes]:
    return {
        f"class_{c}/image_{i}.png": png(10 * c + i) for c in range(classes) for i in range(images)
    }


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


Writer = Callable[[Path, dict[str, bytes]], Path]
WRITERS: dict[str, Writer] = {
    "folder": lambda root, files: folder(root / "images", files),
    "zip": lambda root, files: zipped(root / "images.zip", files),
    "tar": lambda root, files: tarred(root / "images.tar", files),
    "tar.gz": lambda root, files: tarred(root / "images.tar.gz", files, "w:gz"),
    "tar.xz": lambda root, files: tarred(root / "named_anything", files, "w:xz"),
}


def read(images: ImageSet, batch_size: int = 5) -> tuple[np.ndarray, np.ndarray, list[str]]:
    batches = list(images.batches(PREPROCESSING, batch_size))
    assert all(len(names) == batch_size for *_, names in batches[:-1])
    pixels = np.concatenate([pixels for pixels, _, _ in batches])
    labels = np.concatenate([labels for _, labels, _ in batches])
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    return pixels, labels, [name for *_, names in batches for name in names]


@pytest.mark.parametrize("kind", WRITERS)
def test_class_folders_from_every_source(kind: str, tmp_path: Path) -> None:
    files = tree()
    path = WRITERS[kind](tmp_path, dict(reversed(files.items())))
    images = labels_for(["class_2", "class_1", "class_0"], open_images(path))
    pixels, labels, names = read(images)
    assert names == sorted(files)
    assert pixels.shape == (12, 8, 8, 3)
    assert pixels[:, 0, 0, 0].tolist() == [10 * c + i for c in range(3) for i in range(4)]
    assert labels.tolist() == [2] * 4 + [1] * 4 + [0] * 4
    assert images.sha256s() == [sha256(files[name]).hexdigest() for name in names]
    assert not images.skipped


@pytest.mark.parametrize("kind", WRITERS)
def test_flat_images_have_no_labels(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, {"b.png": png(2), "a.png": png(1), "notes.txt": b"x"})
    images = labels_for(["cat"], open_images(path))
    _, labels, names = read(images)
    assert names == ["a.png", "b.png"]
    assert labels.tolist() == [-1, -1]


@pytest.mark.parametrize("kind", WRITERS)
def test_strays_hidden_files_and_wrappers(kind: str, tmp_path: Path) -> None:
    strays = {
        "classes.txt": b"class_0",
        "stray.png": png(0),
        ".hidden/a.png": png(0),
        "__MACOSX/class_0/._image_0.png": b"",
        "class_0/Thumbs.db": b"",
    }
    images = open_images(WRITERS[kind](tmp_path, {**tree(), **strays}))
    assert (len(images), images.ignored, len(images.classes)) == (12, 1, 3)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archive_with_one_top_folder_is_entered(kind: str, tmp_path: Path) -> None:
    files = {f"./photos/{name}": data for name, data in tree().items()}
    images = open_images(WRITERS[kind](tmp_path, files))
    assert images.classes == ("class_0", "class_1", "class_2")
    assert len(read(images)[0]) == 12


@pytest.mark.parametrize("kind", WRITERS)
def test_splits_have_to_be_named(kind: str, tmp_path: Path) -> None:
    files = {f"{s}/{n}": d for s in ("train", "test") for n, d in tree(2, 2).items()}
    path = WRITERS[kind](tmp_path, files)
    with pytest.raises(DataError) as caught:
        open_images(path)
    assert f"{path}::test" in caught.value.try_next
    images = open_images(f"{path}::test")
    assert images.classes == ("class_0", "class_1")
    assert images.items[0].name == "class_0/image_0.png"
    plain = open_images(WRITERS[kind](tmp_path / "other", tree(2, 2)))
    assert images.subset(3, 0).items == plain.subset(3, 0).items  # wherever they lie
    assert len(read(images)[0]) == 4
    with pytest.raises(DataError, match="EV102"):
        open_images(f"{path}::val")
    with pytest.raises(DataError, match="leaves"):
        open_images(f"{path}::../x")


def test_path_with_two_colons_in_its_name(tmp_path: Path) -> None:
    folder(tmp_path / "a::b", tree(1, 1))
    assert len(open_images(tmp_path / "a::b")) == 1


def test_npz(tmp_path: Path) -> None:
    pixels = np.arange(5 * 8 * 8 * 3, dtype=np.int64).astype(np.uint8).reshape(5, 8, 8, 3)
    labels = np.array([2, 0, 2, 1, 11])
    np.savez_compressed(tmp_path / "a.npz", images=pixels, labels=labels)
    images = labels_for(None, open_images(tmp_path / "a.npz"), 12)
    got, numbers, names = read(images, 2)
    order = [int(name.rpartition("/")[2]) for name in names]
    assert np.array_equal(got, pixels[order])
    assert np.array_equal(numbers, labels[order])
    with pytest.raises(DataError, match="EV105"):
        labels_for(["a", "b"], images)
    np.savez(tmp_path / "b.npz", images=pixels, labels=labels % 3, classes=["x", "y", "z"])
    assert labels_for(["z", "y", "x"], open_images(tmp_path / "b.npz")).labels == {
        "x": 2,
        "y": 1,
        "z": 0,
    }
    np.savez(tmp_path / "c.npz", images=pixels)
    assert read(open_images(tmp_path / "c.npz"))[1].tolist() == [-1] * 5


BAD_ARRAYS = {
    "no images": {"labels": np.arange(3)},
    "floats": {"images": np.zeros((2, 4, 4, 3), np.float32)},
    "channels first": {"images": np.zeros((2, 3, 4, 4), np.uint8)},
    "too few labels": {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(1, int)},
    "negative": {"images": np.zeros((1, 4, 4, 3), np.uint8), "labels": np.array([-1])},
    "pickled": {"images": np.array([{}], dtype=object)},
    "beyond classes": {
        "images": np.zeros((1, 4, 4, 3), np.uint8),
        "labels": np.array([2]),
        "classes": np.array(["a", "b"]),
    },
    "one number": {"images": np.uint8(3)},
    "one name": {
        "images": np.zeros((1, 4, 4, 3), np.uint8),
        "labels": np.array([1]),
        "classes": np.array("a"),
    },
    "slashes": {
        "images": np.zeros((2, 4, 4, 3), np.uint8),
        "labels": np.array([0, 1]),
        "classes": np.array(["pets/cat", "pets/dog"]),
    },
}


@pytest.mark.parametrize("arrays", BAD_ARRAYS.values(), ids=list(BAD_ARRAYS))
def test_npz_with_other_contents(
    arrays: dict[str, np.ndarray], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        open_images(tmp_path / "a.npz")
    unread = request.node.callspec.id in ("no images", "pickled")
    assert caught.value.code == ("EV135" if unread else "EV107")


def test_a_member_of_an_npz_that_is_no_array(tmp_path: Path) -> None:
    zipped(tmp_path / "a.npz", {"images.npy": b"not an array"})
    with pytest.raises(DataError, match="EV135"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_working_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder(tmp_path, tree(1, 1)))
    with pytest.raises(DataError, match="EV125") as caught:
        open_images(name)
    assert "--calib" in caught.value.where


@pytest.mark.skipif(os.name == "nt", reason="file names are not bytes there")
def test_a_name_that_is_no_utf8_is_read_and_shown_escaped(tmp_path: Path) -> None:
    folder(tmp_path, tree(1, 30))
    for name, data in ((b"\xff.png", png(9)), (b"\xfe.png", b"damaged")):
        with open(os.fsencode(tmp_path) + b"/class_0/" + name, "wb") as file:
            file.write(data)
    images = open_images(tmp_path)
    names = read(images)[2]
    assert "class_0/\\udcff.png" in names
    assert list(images.skipped) == ["class_0/\\udcfe.png"]
    assert len(names) == len(images.sha256s()) == 31


def test_damaged_images_are_left_out_and_named(tmp_path: Path) -> None:
    files = tree(3, 20)
    files["class_1/image_7.png"] = files["class_1/image_7.png"][:40]
    images = open_images(folder(tmp_path, files))
    pixels, _, names = read(images)
    assert len(pixels) == 59
    assert "class_1/image_7.png" not in names
    assert list(images.skipped) == ["class_1/image_7.png"]
    assert len(images.sha256s()) == 59
    read(images)
    assert len(images.skipped) == 1  # counted once


@pytest.mark.parametrize("kind", WRITERS)
def test_too_many_damaged_images(kind: str, tmp_path: Path) -> None:
    files = tree(2, 10)
    files |= {"class_0/image_1.png": b"", "class_1/image_2.png": b"no picture"}
    with pytest.raises(DataError, match=r"EV104.*2 of 20") as caught:
        read(open_images(WRITERS[kind](tmp_path, files)))
    assert "class_1/image_2.png" in caught.value.why


def test_file_removed_while_reading_is_named(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path, tree(2, 20)))
    (tmp_path / "class_0/image_3.png").unlink()
    assert len(read(images)[0]) == 39
    assert list(images.skipped) == ["class_0/image_3.png"]


def test_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    for kind, write in WRITERS.items():
        with pytest.raises(DataError, match="more than 100 bytes"):
            read(open_images(write(tmp_path / kind.replace(".", ""), {"a.png": bytes(101)})))


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    for kind in WRITERS:
        (tmp_path / kind.replace(".", "")).mkdir(exist_ok=True)
    (tmp_path / "other").mkdir()


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "one.png").write_bytes(png(0))
    cases = {"empty": "EV102", "missing": "EV101", "text.txt": "EV129", "one.png": "EV128"}
    for name, code in cases.items():
        with pytest.raises(DataError) as caught:
            open_images(tmp_path / name)
        assert caught.value.code == code


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_truncated_archives(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, tree(3, 30))
    data = path.read_bytes()
    for length in (len(data) // 2, 600, 30):
        path.write_bytes(data[:length])
        with pytest.raises(DataError) as caught:
            read(open_images(path))
        assert caught.value.code in ("EV129", "EV134", "EV106")


def test_encrypted_zip(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", tree(1, 1)).read_bytes())
    local, central = data.find(b"PK\3\4"), data.find(b"PK\1\2")
    data[local + 6] |= 1
    data[central + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        open_images(tmp_path / "a.zip")


def test_compressed_tar_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_COMPRESSED_TAR_BYTES", 500)
    with pytest.raises(DataError, match="EV106"):
        open_images(tarred(tmp_path / "a.tar.gz", tree(), "w:gz"))


def test_hostile_member_names_stay_names(tmp_path: Path) -> None:
    outside = {"../../out/a.png": png(1), "/etc/b.png": png(2), "c\\d.png": png(3)}
    before = sorted(tmp_path.parent.rglob("*.png"))
    for write in (WRITERS["zip"], WRITERS["tar"]):
        names = [item.name for item in open_images(write(tmp_path, outside)).items]
        assert names == ["c/d.png", "etc/b.png"]  # what climbs out is left out
    assert sorted(tmp_path.parent.rglob("*.png")) == before


def test_links_and_devices_in_a_tar_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("a/l.png", tarfile.SYMTYPE), ("a/h.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
        fifo = tarfile.TarInfo("a/f.png")
        fifo.type = tarfile.FIFOTYPE
        archive.addfile(fifo)
        info = tarfile.TarInfo("a/x.png")
        info.size = len(png(0))
        archive.addfile(info, io.BytesIO(png(0)))
    assert [item.name for item in open_images(tmp_path / "a.tar").items] == ["a/x.png"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_symlinks_are_followed_once(tmp_path: Path) -> None:
    folder(tmp_path / "real", {"a/1.png": png(1), "b/2.png": png(2)})
    folder(tmp_path / "elsewhere", {"3.png": png(3)})
    (tmp_path / "real/a/loop").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real/c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "real/b/broken.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("itself", "itself.png"):
        (tmp_path / "real/b" / name).symlink_to(tmp_path / "real/b" / name)
    names = [item.name for item in open_images(tmp_path / "real").items]
    assert names == ["a/1.png", "b/2.png", "c/3.png"]


def test_named_pipes_in_a_folder_are_left_out(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    folder(tmp_path / "f", {"a/1.png": png(1)})
    os.mkfifo(tmp_path / "f/a/pipe.png")
    assert len(open_images(tmp_path / "f")) == 1


def test_data_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import edgevit.data, sys; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
