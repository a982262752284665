"""Every image format in ROCO is decoded; bad files are reported and stop nothing."""

import struct
from pathlib import Path

import numpy as np
import pytest
from campaigns import bad_images
from PIL import EpsImagePlugin, Image, TiffImagePlugin

from roco_caption.data import images
from roco_caption.data.images import ImageError, image_batches, read_image, read_with_note


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
    Image.new("L", (6400, 6400)).save(tmp_path / "large.png")  # below Pillow's own limit
    with pytest.raises(ImageError, match="40,960,000 pixels are too many"):
        read_image(tmp_path / "large.png")
    (tmp_path / "deep.png").write_bytes(bad_images.png(4100, 4100, 16, 2, []))
    with pytest.raises(ImageError, match="16,810,000 pixels are too many"):
        read_image(tmp_path / "deep.png")
    Image.new("L", (10200, 10200)).save(tmp_path / "large.jpg")
    with pytest.raises(ImageError, match="104,040,000 pixels are too many"):
        read_image(tmp_path / "large.jpg")
    with pytest.raises(ImageError, match="none"):
        read_image(tmp_path / "none.png")


MEDPIX = sorted((Path(__file__).parents[3] / "shared" / "medpix").rglob("*.jpg"))[::300]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_ordinary_pictures_are_only_stretched(tmp_path, mode, suffix):
    x, y = np.meshgrid(np.arange(300), np.arange(200))
    colours = np.stack([x % 256, (x + y) % 256, y], -1).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours).convert(mode).save(path)
    with Image.open(path) as image:
        plain = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_image(path), plain)


@pytest.mark.skipif(not MEDPIX, reason="MedPix's images are not here")
@pytest.mark.parametrize("path", MEDPIX, ids=lambda path: path.name)
def test_ordinary_jpegs_are_only_stretched(path):
    with Image.open(path) as image:
        image.draft("RGB", (224, 224))
        plain = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_image(path), plain)


RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
DEEP = np.round(RAMP * (4095 / 255)).astype(np.uint16)
COLUMNS, GREYS = [3, 56, 112, 168, 220], np.array([4, 64, 128, 192, 252])


def is_the_ramp(image, rows=(0, 112, 223)) -> None:
    array = read_image(image)
    assert array.shape == (224, 224, 3) and array.dtype == np.uint8
    for row in rows:
        np.testing.assert_allclose(array[row, COLUMNS], np.stack([GREYS] * 3, 1), atol=2)


def test_a_large_radiograph_is_read(tmp_path):
    Image.fromarray(RAMP).resize((5000, 4084)).save(tmp_path / "mammogram.png", compress_level=1)
    is_the_ramp(tmp_path / "mammogram.png")


QUARTERS = np.kron([[10, 90], [170, 250]], np.ones((40, 60))).astype(np.uint8)
EXIF_TAG = 0x0112


def turned(path, orientation, values):
    """Write an image with its orientation in a tag, and return how it is to be shown."""
    image = Image.fromarray(values)
    if path.suffix == ".tif":
        image.save(path, tiffinfo={EXIF_TAG: orientation})
    else:
        exif = image.getexif()
        exif[EXIF_TAG] = orientation
        image.save(path, exif=exif)
    flip, quarters = {
        1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)
    }[orientation]  # fmt: skip
    return np.rot90(np.fliplr(values) if flip else values, quarters)


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
@pytest.mark.parametrize(
    "exif", [b"", b"no EXIF at all", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12", "signed"]
)
def test_damaged_metadata_hides_no_image(tmp_path, ending, exif):
    image, path = Image.fromarray(QUARTERS).convert("RGB"), tmp_path / f"scan.{ending}"
    expected = QUARTERS
    if exif == "signed":  # a tag that Pillow cannot write again
        known = Image.Exif()
        known[EXIF_TAG], known[0x9204] = 3, TiffImagePlugin.IFDRational(-1, 3)
        exif, expected = known.tobytes(), QUARTERS[::-1, ::-1]
    image.save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    found = read_image(path, 120)[..., 0].astype(float)
    small = np.asarray(Image.fromarray(expected).resize((120, 120))).astype(float)
    assert np.abs(found - small).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "scale"),
    [("tif", 1), ("tif", 16), ("tif", 0.5), ("png", 1), ("png", 16), ("jpg", 1)],
)
def test_orientation_is_undone_whatever_the_format_and_depth(tmp_path, orientation, suffix, scale):
    kind = {1: np.uint8, 16: np.uint16, 0.5: np.float32}[scale]
    values = (QUARTERS * scale).astype(kind)
    path = tmp_path / f"a.{suffix}"
    expected = turned(path, orientation, values)
    with Image.open(path) as opened:
        arrays = [read_image(path, 80), read_image(opened, 80), read_image(expected, 80)]
    for array in arrays[:2]:
        np.testing.assert_allclose(array.astype(int), arrays[2], atol=3 if suffix == "jpg" else 0)
    corners = arrays[0][[0, 0, -1, -1], [0, -1, 0, -1], 0].astype(int)
    assert np.array_equal(np.argsort(corners), np.argsort(expected[[0, 0, -1, -1], [0, -1, 0, -1]]))


def deep_png(path, values):
    """Write 16-bit values (height, width, 2 to 4), which Pillow cannot."""
    colour = {2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = values.astype(">u2")
    path.write_bytes(
        bad_images.png(*rows.shape[1::-1], 16, colour, (b"\0" + row.tobytes() for row in rows))
    )
    return path


def deep_tiff(path, values, order="<", strips=1):
    """Write 16-bit values (height, width, 3 or 4) uncompressed, which Pillow cannot."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, None), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, strips, None), (277, 3, 1, channels),
        (278, 4, 1, height // strips), (279, 4, strips, len(data) // strips),
    ] + ([(338, 3, 1, 2)] if channels == 4 else [])  # fmt: skip
    depths = 8 + 2 + 12 * len(tags) + 4
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, count, value in tags:
        value = {258: depths, 273: depths + 2 * channels + 8 * strips}.get(tag, value)
        if strips > 1 and tag in (273, 279):  # a list, after the depths
            value = depths + 2 * channels + (0 if tag == 273 else 4 * strips)
        one = f"{order}HHIHxx" if kind == 3 and count == 1 else f"{order}HHII"
        content += struct.pack(one, tag, kind, count, value)
    content += bytes(4) + struct.pack(f"{order}{channels}H", *[16] * channels)
    starts = [len(content) + 8 * strips + i * len(data) // strips for i in range(strips)]
    lengths = [len(data) // strips] * strips
    content += struct.pack(f"{order}{2 * strips}I", *starts, *lengths) + data
    path.write_bytes(content)
    return path


OPAQUE = np.full((*DEEP.shape, 1), 65535)


@pytest.mark.parametrize("shift", [0, -2, 2, 4])
@pytest.mark.parametrize(
    ("write", "channels"),
    [
        (deep_png, [0, 0, 0]), (deep_png, [0, 0, 0, 1]),
        (deep_tiff, [0, 0, 0]), (deep_tiff, [0, 0, 0, 1]),
        (lambda path, values: deep_tiff(path, values, ">"), [0, 0, 0]),
        (lambda path, values: deep_tiff(path, values, strips=4), [0, 0, 0]),
    ],
)  # fmt: skip
def test_colour_of_10_to_16_bits_stored_in_16(tmp_path, write, channels, shift):
    values = DEEP.astype(int) << shift if shift > 0 else DEEP.astype(int) >> -shift
    values[:3, :3] = 65535  # nine hot pixels
    pixels = np.concatenate([values[..., None], OPAQUE], -1)[..., channels]
    path = write(tmp_path / "a", pixels)
    is_the_ramp(path, rows=[112, 223])
    with Image.open(path) as opened:
        is_the_ramp(opened, rows=[112, 223])


def test_colours_that_use_their_16_bits_keep_the_upper_8(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (60, 60, 3))
    path = deep_png(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_image(path, 60), values >> 8)
    np.testing.assert_array_equal(read_image(values.astype(np.uint16), 60), values >> 8)


def spoilt(how):
    values = DEEP.astype(np.float32) / 4095 * 1020 + 1000
    if how == "constant rows":
        values[:20] = np.nan
    elif how == "a tiny range":
        values *= 1e-9
    elif how == "low and high":
        values[0, :3], values[1, :3] = -1e38, 1e38
    else:
        values[0, 0] = {"inf": np.inf, "-inf": -np.inf, "hot": 1e30, "nan": np.nan}[how]
    return values


@pytest.mark.parametrize(
    "how", ["inf", "-inf", "hot", "nan", "low and high", "constant rows", "a tiny range"]
)
def test_floats_that_are_not_finite_or_far_away_are_ignored(tmp_path, how):
    values = spoilt(how)
    Image.fromarray(values).save(tmp_path / "a.tif")
    for image in (tmp_path / "a.tif", values, values.astype(np.float64), values[..., None]):
        is_the_ramp(image, rows=[112, 223])
    is_the_ramp(np.stack([values] * 3, -1), rows=[112, 223])


@pytest.mark.parametrize("mode", ["png", "tif"])
def test_hot_pixels_do_not_darken_grey_pictures(tmp_path, mode):
    values = DEEP.copy()
    values[:3, :3] = 65535
    Image.fromarray(values).save(tmp_path / f"a.{mode}")
    is_the_ramp(tmp_path / f"a.{mode}", rows=[112, 223])


@pytest.mark.parametrize(
    "values",
    [
        np.arange(4096).reshape(64, 64) * 16,
        np.kron([[0, 0], [0, 9]], np.ones((32, 32))),
        np.pad([[9]], 31),  # one bright point
        np.random.default_rng(0).normal(3000, 500, (64, 64)),
        np.random.default_rng(0).exponential(300, (64, 64)),
    ],
)
def test_a_picture_that_uses_its_range_keeps_it(values):
    values = np.round(values).astype(np.uint16)
    low, high = float(values.min()), float(values.max())
    expected = ((values.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    np.testing.assert_array_equal(
        read_image(values, 64 if len(values) == 64 else 63)[..., 0], expected
    )


def test_a_picture_without_finite_pixels_is_refused():
    with pytest.raises(ImageError, match="no finite pixels"):
        read_image(np.full((9, 9), np.nan))


def drawing(ink, hidden, covered=0.2):
    """Return RGBA of a drawn disc, on a transparent ground whose hidden colour is `hidden`."""
    x, y = np.meshgrid(np.linspace(-1, 1, 224), np.linspace(-1, 1, 224))
    inside = x**2 + y**2 < covered * 4 / np.pi
    values = np.where(inside[..., None], ink, hidden)
    return np.concatenate([values, 255 * inside[..., None]], -1).astype(np.uint8), inside


@pytest.mark.parametrize("covered", [0.02, 0.3, 0.7])
@pytest.mark.parametrize("hidden", [0, 255, 128])
@pytest.mark.parametrize("ink", [0, 60, 255, 200])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "array", "deep"])
def test_a_drawing_on_transparent_ground_is_seen(tmp_path, mode, ink, hidden, covered):
    rgba, inside = drawing([ink] * 3, hidden, covered)
    image, path = Image.fromarray(rgba), tmp_path / "a.png"
    if mode == "deep":
        deep_png(path, rgba.astype(int) * 257)
    elif mode == "P":
        grey = Image.fromarray(np.where(inside, 1, 0).astype(np.uint8)).convert("P")
        grey.putpalette([hidden] * 3 + [ink] * 3)
        grey.save(path, transparency=0)
    else:
        image.convert("RGBA" if mode == "array" else mode).save(path)
    array = read_image(rgba if mode == "array" else path)
    np.testing.assert_allclose(array[inside].astype(int), ink, atol=1)
    assert (array[~inside] == (255 if ink < 96 else 0)).all()


def test_a_scan_with_a_transparent_margin_stays_on_black(tmp_path):
    rgba, inside = drawing([10, 10, 10], 255, 0.7)
    rgba[80:140, 60:160, :3] = 220  # bright parts on its own black ground
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png")[~inside] == 0).all()


@pytest.mark.parametrize("alpha", [0, 255])
def test_alpha_that_is_the_same_everywhere_changes_nothing(tmp_path, alpha):
    plain = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8))
    plain.save(tmp_path / "a.png")
    plain.putalpha(alpha)
    plain.save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"))


@pytest.mark.parametrize(
    "array",
    [
        RAMP, RAMP[..., None], np.stack([RAMP] * 3, -1), DEEP, DEEP[..., None],
        np.stack([DEEP] * 3, -1), RAMP / 255, np.stack([RAMP] * 3, -1) / 255,
        np.stack([RAMP] * 3, -1) * 1.0, np.stack([RAMP / 255] * 3 + [np.ones(RAMP.shape)], -1),
        np.stack([RAMP] * 3 + [np.full(RAMP.shape, 255)], -1).astype(np.float16),
        np.stack([RAMP] * 3 + [np.full_like(RAMP, 255)], -1), RAMP[::-1], RAMP.astype(">u2"),
        np.asfortranarray(RAMP), RAMP.astype(">f4"),
    ],
)  # fmt: skip
def test_arrays_follow_the_same_rules(array):
    is_the_ramp(array)
    assert read_with_note(array, 32)[1] == ""


def test_floats_of_an_8_bit_colour_picture_are_that_picture():
    picture = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    for floats in (picture / 255, picture.astype(np.float32), (picture / 255).astype(np.float16)):
        np.testing.assert_array_equal(read_image(floats, 30), picture)


def test_bool_arrays_are_black_and_white():
    assert np.unique(read_image(RAMP > 100, 224)[:, ::20]).tolist() == [0, 255]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5, np.uint8), np.zeros((3, 8, 9), np.uint8), np.zeros((2, 8, 9, 3), np.uint8),
        np.zeros((8, 9, 2), np.uint8), np.zeros((0, 9), np.uint8), np.zeros((9, 9), np.int64),
        np.zeros((9, 9), complex), np.full((9, 9), "a"), np.zeros((9, 9), object),
    ],
)  # fmt: skip
def test_other_arrays_are_refused_with_what_they_may_be(array):
    with pytest.raises(ImageError, match=r"uint8, uint16.*float or bool.*\(height, width\)"):
        read_image(array)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I", "F", "HSV"]
)
def test_pil_images_are_read_and_left_as_they_are(tmp_path, mode):
    image = Image.fromarray(DEEP if mode == "I;16" else RAMP)
    if mode in ("CMYK", "HSV"):
        image = image.convert("RGB")
    image = image if mode == "I;16" else image.convert(mode)
    before = image.tobytes()
    read_image(image) if mode == "1" else is_the_ramp(image)
    assert image.tobytes() == before and image.mode == mode
    Image.fromarray(RAMP).resize((2000, 900)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as opened:
        is_the_ramp(opened)
        assert opened.size == (2000, 900) and np.asarray(opened).shape == (900, 2000)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (3000, 2)])
def test_odd_shapes_are_stretched(tmp_path, shape):
    Image.fromarray(gradient(*shape)).save(tmp_path / "odd.png")
    assert read_image(tmp_path / "odd.png").shape == (224, 224, 3)


def test_bad_files_give_pixels_or_a_reason_in_four_seconds_and_500_mb(tmp_path):
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
    for positions, pixels, skipped in image_batches(paths, size=8, batch_size=3, workers=2):
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
    stream = image_batches([tmp_path / str(i) for i in range(100)], size=2, batch_size=5)
    next(stream)
    assert len(read) <= 20
    stream.close()


@pytest.mark.parametrize(
    ("names", "cores", "threads"),
    [({}, 3, 3), ({"COLAB_GPU": ""}, 2, 16), ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, 4, 16),
     ({"COLAB_GPU": ""}, 96, 96)],
)  # fmt: skip
def test_where_drives_answer_slowly_more_threads_read(tmp_path, monkeypatch, names, cores, threads):
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG", "COLAB_GPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(images, "usable_cpus", lambda: cores)
    makers = images.ThreadPoolExecutor
    used = []
    monkeypatch.setattr(
        images, "ThreadPoolExecutor", lambda n, **options: used.append(n) or makers(n, **options)
    )
    for given in (None, 5):
        list(image_batches([tmp_path / "none.jpg"], size=8, workers=given))
    assert used == [threads, 5]


@pytest.mark.parametrize("bits", [8, 16])
def test_film_digitisers_tiffs_with_white_as_zero_are_not_inverted(tmp_path, bits):
    values = np.linspace(0, 250, 32 * 32).reshape(32, 32)
    inverted = (4000 - 16 * values).astype("<u2")  # Pillow itself inverts 8 bits when it writes
    stored = values.astype(np.uint8) if bits == 8 else inverted
    Image.fromarray(stored).save(tmp_path / "film.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "film.tif") as image:
        assert image.tag_v2[262] == 0
    pixels = read_image(tmp_path / "film.tif", 32)[..., 0].astype(float)
    assert np.corrcoef(pixels.ravel(), values.ravel())[0, 1] > 0.99


def test_pixels_without_a_value_do_not_hinder_inversion(tmp_path):
    values = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "film.tif", tiffinfo={262: 0})
    pixels = read_image(tmp_path / "film.tif", 32)[..., 0].astype(float)
    assert pixels[0].mean() > 200 and pixels[-1].mean() < 50
