"""Every image format in ROCO is decoded; bad files are reported and stop nothing."""

import numpy as np
import pytest
from campaigns import bad_images
from PIL import EpsImagePlugin, Image

from roco_caption.data.images import ImageError, image_batches, read_image


def gradient(height: int, width: int) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


MODES = {
    "jpg": ["L", "RGB", "CMYK", "1", "YCbCr"],
    "png": ["L", "RGB", "RGBA", "P", "1", "LA", "I;16"],
    "tif": ["L", "RGB", "RGBA", "CMYK", "P", "1", "LA", "I;16", "I", "F", "YCbCr"],
    "gif": ["L", "RGB", "P", "1"],
    "bmp": ["L", "RGB", "P", "1"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(s, mode) for s in MODES for mode in MODES[s]])
def test_modes_and_formats_give_rgb(tmp_path, suffix, mode):
    image = Image.fromarray(gradient(60, 90))
    if mode == "I;16":
        image = Image.fromarray(gradient(60, 90).astype(np.uint16) * 200)
    elif mode != "L":
        image = image.convert(mode)
    path = tmp_path / f"image.{suffix}"
    # Kaggle's and Colab's Pillow cannot reload this one uncompressed (Pillow's issue 9770)
    compressed = {"compression": "tiff_lzw"} if (suffix, mode) == ("tif", "YCbCr") else {}
    image.save(path, **compressed)
    array = read_image(path, 32)
    assert array.shape == (32, 32, 3) and array.dtype == np.uint8
    assert array[-1].mean() > array[0].mean() + 100  # dark above, bright below


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_use_the_whole_range(tmp_path, suffix):
    values = np.full((40, 40), 1000, np.uint16)
    values[:, 20:] = 1400
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    array = read_image(tmp_path / f"deep.{suffix}", 40)
    assert array[5, 2].tolist() == [0, 0, 0] and array[5, 37].tolist() == [255, 255, 255]


def test_exif_rotation_is_undone(tmp_path):
    image = Image.fromarray(gradient(40, 40))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.jpg", exif=exif)
    array = read_image(tmp_path / "turned.jpg", 40)
    assert array[0].mean() > 200 and array[-1].mean() < 55


def test_large_jpeg_decodes_at_reduced_size_to_the_same_picture(tmp_path):
    x, y = np.meshgrid(np.arange(1600), np.arange(1200))
    picture = (127 + 80 * np.sin(x / 130) + 40 * np.cos(y / 90)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "large.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "large.png")
    fast, plain = (read_image(tmp_path / f"large.{s}").astype(float) for s in ("jpg", "png"))
    assert np.abs(fast - plain).mean() < 1.5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 9,
    ],
)
def test_files_that_are_not_images_are_named(tmp_path, content):
    path = tmp_path / "PMC4240561_MA-68-291-g002.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="PMC4240561_MA-68-291-g002"):
        read_image(path)


def test_cut_images_and_bombs_are_refused(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ImageError, match="cut"):
        read_image(path)
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="bomb"):
        read_image(tmp_path / "bomb.png")
    Image.new("L", (4100, 4100)).save(tmp_path / "large.png")  # below Pillow's own limit
    with pytest.raises(ImageError, match="16,810,000 pixels are too many"):
        read_image(tmp_path / "large.png")
    Image.new("L", (10200, 10200)).save(tmp_path / "large.jpg")
    with pytest.raises(ImageError, match="104,040,000 pixels are too many"):
        read_image(tmp_path / "large.jpg")
    with pytest.raises(ImageError, match="none"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (3000, 2)])
def test_odd_shapes_are_stretched(tmp_path, shape):
    Image.fromarray(gradient(*shape)).save(tmp_path / "odd.png")
    assert read_image(tmp_path / "odd.png").shape == (224, 224, 3)


def test_bad_files_give_pixels_or_a_reason_in_a_second_and_500_mb(tmp_path):
    table, failures = bad_images.judge(tmp_path, 150)
    assert failures == []
    assert len(table) > 15 and sum(row[0] for row in table.values()) > 40
    assert table["empty"][0] == table["no image"][0] == 0


def test_postscript_never_reaches_ghostscript(tmp_path, monkeypatch):
    """Pillow would run it: the file decides what it is, not its name."""
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **o: ran.append(a))
    (tmp_path / "a.jpg").write_bytes(bad_images.TEXTS["postscript"])
    with pytest.raises(ImageError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")
    assert ran == []


def test_batches_keep_order_and_report_what_is_skipped(tmp_path):
    paths = []
    for i in range(11):
        path = tmp_path / f"{i}.png"
        Image.new("L", (8, 8), i * 20).save(path)
        paths.append(path)
    paths[2].write_bytes(b"rubbish")
    paths[7].unlink()
    seen, bad = {}, {}
    for positions, pixels, skipped in image_batches(
        paths, size=8, batch_size=3, workers=2, ahead=2
    ):
        assert pixels.dtype == np.uint8 and len(positions) == len(pixels)
        seen |= {int(i): int(p[0, 0, 0]) for i, p in zip(positions, pixels, strict=True)}
        bad |= skipped
    assert seen == {i: i * 20 for i in range(11) if i not in (2, 7)} and list(seen) == sorted(seen)
    assert bad.keys() == {2, 7} and "2.png" in bad[2] and "7.png" in bad[7]


def test_a_batch_without_any_image_is_empty_not_an_error(tmp_path):
    (batch,) = image_batches([tmp_path / "none.jpg"], size=8)
    assert batch[1].shape == (0, 8, 8, 3) and list(batch[2]) == [0]


def test_decoding_stays_only_a_few_batches_ahead(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "roco_caption.data.images.read_image",
        lambda p, s: read.append(p) or np.zeros((s, s, 3), np.uint8),
    )
    stream = image_batches([tmp_path / str(i) for i in range(100)], size=2, batch_size=5, ahead=3)
    next(stream)
    assert len(read) <= 15
    stream.close()
