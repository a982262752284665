"""DICOM is rendered as it asks to be, and no patient data leaves the file."""

import struct
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SECRET, item, write_dicom
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_voi

from roco_caption.data import dicom
from roco_caption.data.images import ImageError, image_batches, read_image, read_with_note

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
ROOT = Path(__file__).parents[2]


def shown(path, **elements):
    """Return the rendered grey values of RAMP, 0 to 1, and the note."""
    array, note = dicom.read_dicom(write_dicom(path, RAMP, **elements), 10**6)
    assert array.dtype == np.uint8 and array.shape == (16, 16)
    return array / 255, note


def test_known_by_its_content_not_by_its_name(tmp_path):
    assert dicom.is_dicom(write_dicom(tmp_path / "scan.jpg", RAMP))
    (tmp_path / "scan.dcm").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 200)
    assert not dicom.is_dicom(tmp_path / "scan.dcm")
    (tmp_path / "short").write_bytes(b"DICM")
    assert not dicom.is_dicom(tmp_path / "short")
    assert read_image(tmp_path / "scan.jpg", 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        ("LINEAR", 1000 - 0.5 - 199 / 2, 1000 - 0.5 + 199 / 2),
        ("LINEAR_EXACT", 900, 1100),
    ],
)
def test_the_window_applies_to_rescaled_values(tmp_path, function, low, high):
    grey, note = shown(
        tmp_path / "a", RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=1000, WindowWidth=200,
        VOILUTFunction=function,
    )  # fmt: skip
    expected = np.clip((RAMP * 2.0 - 1024 - low) / (high - low), 0, 1)
    np.testing.assert_allclose(grey, expected, atol=0.5 / 255 + 1e-9)
    assert note == "DICOM CT, window 1000 ± 100"
    assert (grey == 0).any() and (grey == 1).any() and ((grey > 0) & (grey < 1)).any()


def test_a_sigmoid_window(tmp_path):
    grey, _ = shown(tmp_path / "a", WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    expected = 1 / (1 + np.exp(-4 * (RAMP - 2000.0) / 1000))
    np.testing.assert_allclose(grey, expected, atol=0.5 / 255 + 1e-9)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(tmp_path, function):
    path = write_dicom(
        tmp_path / "a", RAMP, WindowCenter=1500, WindowWidth=900, VOILUTFunction=function
    )
    theirs = apply_voi_window(pydicom.dcmread(path))
    np.testing.assert_allclose(dicom.read_dicom(path, 999)[0] / 255, theirs, atol=0.51 / 255)


def apply_voi_window(dataset):
    from pydicom.pixels import apply_windowing

    return apply_windowing(dataset.pixel_array, dataset) / 65535  # its range is that of the bits


def test_the_first_of_several_windows_is_used(tmp_path):
    one, _ = shown(tmp_path / "a", WindowCenter=1000, WindowWidth=200)
    several, note = shown(tmp_path / "b", WindowCenter=[1000, 40], WindowWidth=[200, 80])
    np.testing.assert_array_equal(one, several)
    assert note.endswith("window 1000 ± 100")


def test_without_a_window_the_full_range_except_padding_is_used(tmp_path):
    grey, note = shown(tmp_path / "a", RescaleSlope=-1, RescaleIntercept=7)  # a falling slope
    assert note == "DICOM CT, its full range of values"
    np.testing.assert_allclose(grey, 1 - RAMP / RAMP.max(), atol=0.5 / 255 + 1e-9)
    padded = RAMP.copy() + 1000
    padded[0] = 0
    path = write_dicom(tmp_path / "b", padded, PixelPaddingValue=0)
    array, _ = dicom.read_dicom(path, 999)
    assert (array[0] == 0).all() and array[1].max() <= 25 and array[-1, -1] == 255


def test_monochrome1_is_inverted(tmp_path):
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    plain, _ = shown(tmp_path / "a", **window)
    inverted, _ = shown(tmp_path / "b", PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_allclose(inverted, 1 - plain, atol=1 / 255)
    assert inverted[0, 0] == 1 and plain[0, 0] == 0


def test_look_up_tables_of_both_kinds(tmp_path):
    small = np.arange(256, dtype="<u2").reshape(16, 16)
    modality = item(LUTDescriptor=[256, 0, 16], LUTData=(small**2).tobytes(), ModalityLUTType="US")
    voi = item(LUTDescriptor=[256, 0, 8], LUTData=(255 - small).tobytes())
    path = write_dicom(
        tmp_path / "a", small, ModalityLUTSequence=[modality], WindowCenter=32768,
        WindowWidth=65536,
    )  # fmt: skip
    array, _ = dicom.read_dicom(path, 999)
    np.testing.assert_allclose(array / 255, small.astype(float) ** 2 / 65535, atol=1 / 255)
    path = write_dicom(tmp_path / "b", small, VOILUTSequence=[voi], WindowCenter=9, WindowWidth=2)
    array, note = dicom.read_dicom(path, 999)  # the table is preferred to the window
    np.testing.assert_array_equal(array, 255 - small)
    np.testing.assert_array_equal(array, apply_voi(small, pydicom.dcmread(path)))
    assert note == "DICOM CT, its own VOI LUT"


@pytest.mark.parametrize(("frames", "middle"), [(1, 1), (2, 2), (5, 3), (30, 16)])
def test_the_middle_frame_is_taken_and_noted(tmp_path, frames, middle):
    pixels = np.zeros((frames, 16, 16), np.uint16)
    pixels += np.arange(1, frames + 1, dtype=np.uint16)[:, None, None]
    path = write_dicom(tmp_path / "a", pixels, WindowCenter=16, WindowWidth=32)
    array, note = dicom.read_dicom(path, 999)
    assert np.allclose(array, 255 * ((middle - 15.5) / 31 + 0.5), atol=1)
    assert (f"frame {middle} of {frames}" in note) == (frames > 1)
    dataset = pydicom.dcmread(path)
    for said in (1, None):  # by damaged exports
        dataset.NumberOfFrames = said
        dataset.save_as(tmp_path / "b")
        assert (dicom.read_dicom(tmp_path / "b", 999)[0] == array).all()


def test_frames_with_settings_of_their_own(tmp_path):
    """Enhanced CT and MR keep rescaling and windows in groups, one shared, one for each frame."""
    rescale = item(RescaleSlope=1, RescaleIntercept=-1000)
    shared = item(PixelValueTransformationSequence=[rescale])
    voi = [[item(WindowCenter=c, WindowWidth=101)] for c in (10, 500, 10)]
    each = [item(FrameVOILUTSequence=window) for window in voi]
    pixels = np.full((3, 16, 16), 1500, np.uint16)
    path = write_dicom(
        tmp_path / "a", pixels, SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each,
    )  # fmt: skip
    array, note = dicom.read_dicom(path, 999)
    assert note == "DICOM CT, frame 2 of 3, window 500 ± 50.5" and (abs(array - 128.0) <= 1).all()


WIDE = np.tile(np.arange(256, dtype=np.int64), (64, 1))
DEEP = np.round(WIDE * 4095 / 255).astype(np.uint16)
EVERY = np.arange(4096, dtype="<u2")
SLOPE = {"RescaleSlope": "0.000244200244", "RescaleIntercept": "0"}  # 12 bits to 0…1


def is_the_ramp(path) -> str:
    """Assert that a file reads as the ramp 0 to 255 that it was made of; return the note."""
    array, note = read_with_note(path, 224)
    shown = array[112, [3, 56, 112, 168, 220]]
    np.testing.assert_allclose(shown, np.tile([[4], [64], [128], [192], [252]], 3), atol=2)
    return note


def table(entries, declared=16, first=0, count=0, **more):
    data = entries if isinstance(entries, list) else entries.tobytes()
    made = item(LUTDescriptor=[count or len(entries), first, declared], LUTData=data, **more)
    made["LUTData"].VR = "US" if isinstance(entries, list) else "OW"
    return made


@pytest.mark.parametrize(
    ("pixels", "voi"),
    [
        (DEEP, table(EVERY)),  # 12 bits declared as 16
        (DEEP, table(EVERY, 12)),
        (DEEP, table((EVERY // 4).astype("<u2"))),  # 10 bits declared as 16
        (DEEP, table(EVERY * 4)),  # 14 bits
        (DEEP, table(EVERY * 16)),
        (DEEP, table(EVERY, 8)),  # more than declared
        (WIDE, table(WIDE[0].astype(np.uint8), 8)),  # a byte per entry
        (WIDE, table(WIDE[0].astype(np.uint8), 8, count=256)),
        (WIDE, table([int(v) for v in WIDE[0]])),  # 8 bits declared as 16
        (DEEP + 1000, table(EVERY, first=1000)),
        (DEEP, table(EVERY[:4090], count=4096)),  # some entries are missing
    ],
)  # fmt: skip
def test_a_voi_lut_is_scaled_by_what_it_holds(tmp_path, pixels, voi):
    assert is_the_ramp(write_dicom(tmp_path / "a", pixels, VOILUTSequence=[voi])) == (
        "DICOM CT, its own VOI LUT"
    )


def test_a_voi_lut_of_negative_values_written_as_unsigned(tmp_path):
    elements = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    voi = table(EVERY, first=65536 - 1024)
    is_the_ramp(write_dicom(tmp_path / "a", DEEP, VOILUTSequence=[voi], **elements))


@pytest.mark.parametrize("declared", [8, 12, 16])
def test_a_modality_lut_of_any_declared_depth(tmp_path, declared):
    modality = table(EVERY, declared, ModalityLUTType="US")
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    is_the_ramp(write_dicom(tmp_path / "a", DEEP, ModalityLUTSequence=[modality], **window))


@pytest.mark.parametrize(
    ("center", "width", "function", "slope"),
    [
        (0.5, 1, "LINEAR_EXACT", SLOPE),
        (0.5, 1, "LINEAR", SLOPE),
        (0.4565, 0.913, "LINEAR", SLOPE | {"RescaleSlope": "0.000222955"}),  # dicom-rs' file
        (0.005, 0.01, "LINEAR", SLOPE | {"RescaleSlope": "2.442e-6"}),
        (0.9, 1.8, "", SLOPE | {"RescaleSlope": "0.00043956"}),
        (2048, 0, "SIGMOID", {}),  # no window: the full range of values
        (2048, 0, "LINEAR_EXACT", {}),
        (2048, 0, "LINEAR", {}),
        (2048, -5, "LINEAR", {}),
        ([0, 2048], [0, 4096], "LINEAR", {}),  # the first valid one
        (["", 2048], ["", 4096], "LINEAR", {}),
        ([2048, 9], 4096, "LINEAR", {}),
        (None, 4096, "LINEAR", {}),
        (90000, 100, "LINEAR", {}),  # it would show nothing
        (-90000, 100, "SIGMOID", {}),
        (2048, 4096, "linear ", {}),
    ],
)
def test_narrow_and_invalid_windows(tmp_path, center, width, function, slope):
    elements = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function, **slope}
    is_the_ramp(write_dicom(tmp_path / "a", DEEP, **elements))


def test_a_window_of_one_value_stays_a_threshold(tmp_path):
    grey, _ = shown(tmp_path / "a", WindowCenter=2001, WindowWidth=1)
    np.testing.assert_array_equal(grey, RAMP > 2000.5)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(
    ("stored", "high", "left"), [(12, 15, 4), (10, 15, 6), (12, 13, 2), (12, 15, 0)]
)
def test_bits_aligned_to_the_left(tmp_path, signed, stored, high, left):
    """HighBit says where the bits are, but for the last case, where it is wrong."""
    pixels = np.round(WIDE * ((1 << stored) - 1) / 255).astype(np.int32)
    pixels -= signed << (stored - 1)
    window = {"WindowCenter": (0 if signed else 1 << (stored - 1)), "WindowWidth": 1 << stored}
    words = (pixels & ((1 << stored) - 1)) << left
    is_the_ramp(write_dicom(
        tmp_path / "a", words, BitsStored=stored, HighBit=high, PixelRepresentation=signed, **window
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "declared"),
    [("<u2", 16), ("u1", 16), ("u1", 8), ("<u2", 8), ("256", 16)],
)
def test_palettes_of_8_bits_whatever_is_declared(tmp_path, entries, declared):
    grey = np.arange(256) * 257 if entries == "256" else np.arange(256)
    data = grey.astype("<u2" if entries == "256" else entries).tobytes()
    palette = {}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, declared]
        palette[f"{name}PaletteColorLookupTableData"] = data
    path = write_dicom(tmp_path / "a", WIDE, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert is_the_ramp(path) == "DICOM CT, in colour"


@pytest.mark.parametrize("groups", [1, 3])
def test_a_shared_window_and_a_rescaling_per_frame(tmp_path, groups):
    center = 2048 if groups == 1 else 1500  # frame 2 has no group of its own, or one
    shared = item(FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=4096)])
    rescaled = [item(RescaleSlope=1, RescaleIntercept=i) for i in (0, -548, 0)]
    each = [item(PixelValueTransformationSequence=[rescale]) for rescale in rescaled]
    is_the_ramp(write_dicom(
        tmp_path / "a", np.stack([DEEP] * 3), SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=each[:groups],
    ))  # fmt: skip


def test_a_palette_that_begins_at_a_later_value(tmp_path):
    palette = {}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 16, 8]
        palette[f"{name}PaletteColorLookupTableData"] = np.arange(256, dtype=np.uint8).tobytes()
    palette["PhotometricInterpretation"] = "PALETTE COLOR"
    is_the_ramp(write_dicom(tmp_path / "a", WIDE + 16, **palette))


def test_a_dark_picture_of_a_palette_stays_dark(tmp_path):
    palette = {}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (
            (np.arange(256) * 257).astype("<u2").tobytes()
        )
    palette["PhotometricInterpretation"] = "PALETTE COLOR"
    array, _ = dicom.read_dicom(write_dicom(tmp_path / "a", WIDE // 16, **palette), 10**6)
    np.testing.assert_array_equal(array, np.stack([WIDE // 16] * 3, -1))


def test_colours_of_12_bits_declared_as_16(tmp_path):
    colours = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    data = {"PixelData": np.repeat(DEEP, 3).astype("<u2").tobytes()}
    is_the_ramp(write_dicom(tmp_path / "a", DEEP, **colours, **data))


def bare(path: Path, keep: str) -> Path:
    """Take away the preamble, or the meta header as well."""
    content = path.read_bytes()
    start = {"DICM": 128, "meta": 132, "data": content.index(b"\x08\0\x16\0UI")}[keep]
    path.write_bytes(content[start:])
    return path


@pytest.mark.parametrize("keep", ["meta", "data"])
@pytest.mark.parametrize("name", ["a.dcm", "a", "a.jpg"])
def test_files_without_preamble_or_meta_header(tmp_path, keep, name):
    assert is_the_ramp(bare(write_dicom(tmp_path / name, DEEP), keep)).startswith("DICOM CT")


def test_a_bare_file_of_implicit_types(tmp_path):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a", DEEP))
    del dataset.file_meta
    bytes_ = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(bytes_, dataset, implicit_vr=True, little_endian=True)
    (tmp_path / "b").write_bytes(bytes_.getvalue())
    is_the_ramp(tmp_path / "b")


WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": None},
        {"PhotometricInterpretation": ""},
        {"PhotometricInterpretation": "GREY"},
        {"RescaleSlope": None, "RescaleIntercept": 0},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"RescaleSlope": 1},
        {"RescaleIntercept": 0},
        {"VOILUTSequence": [item()]},
        {"VOILUTSequence": [item(LUTExplanation="none")]},
        {"VOILUTSequence": [item(), table(EVERY)]},
        {"VOILUTSequence": []},
        {"ModalityLUTSequence": [item()]},
        {"SharedFunctionalGroupsSequence": [item(FrameVOILUTSequence=[item()])]},
        {"SharedFunctionalGroupsSequence": [item(FrameVOILUTSequence=[])]},
        {"SharedFunctionalGroupsSequence": [item(FrameVOILUTSequence=[
            item(WindowCenter=None, WindowWidth=None, WindowCenterWidthExplanation="EMPTY")])]},
        {"SharedFunctionalGroupsSequence": [item(PixelValueTransformationSequence=[
            item(RescaleSlope=None, RescaleType="US")])], "RescaleSlope": 1},
        {"PerFrameFunctionalGroupsSequence": [item(PixelValueTransformationSequence=[item()])]},
        {"NumberOfFrames": None},
        {"SamplesPerPixel": None},
        {"BitsStored": None},
        {"HighBit": None},
        {"PixelRepresentation": None},
        {"VOILUTFunction": None},
        {"PixelData": DEEP.astype("<u2").tobytes() + bytes(200)},  # padded
        {"PixelPaddingValue": None},
        {"PlanarConfiguration": None},
    ],
)  # fmt: skip
@pytest.mark.parametrize("absent", [False, True])
def test_what_is_empty_or_absent(tmp_path, elements, absent):
    path = write_dicom(tmp_path / "a", DEEP, **WINDOW, **elements)
    if absent:
        dataset = pydicom.dcmread(path)
        for name, value in elements.items():
            if not value:
                delattr(dataset, name)
        dataset.save_as(path)
    is_the_ramp(path)


def test_a_window_that_is_no_number_is_left_out(tmp_path):
    path = write_dicom(tmp_path / "a", DEEP, WindowCenter=2048, WindowWidth=4096)
    path.write_bytes(path.read_bytes().replace(b"2048", b"20,8"))
    assert is_the_ramp(path) == "DICOM CT, its full range of values"


def test_hot_pixels_do_not_set_the_full_range(tmp_path):
    pixels = DEEP.copy()
    pixels[:3, :3] = 65535
    is_the_ramp(write_dicom(tmp_path / "a", pixels))


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    values = DEEP.astype("<f4")
    values[:9], values[-1, -1] = np.nan, np.inf
    path = write_dicom(tmp_path / "a", DEEP, BitsAllocated=32, FloatPixelData=values.tobytes())
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.save_as(path)
    is_the_ramp(path)


@pytest.mark.parametrize(
    ("name", "note", "colour"),
    [
        ("CT_small.dcm", "DICOM CT, its full range of values", False),
        ("MR_small.dcm", "DICOM MR, window 600 ± 800", False),
        ("MR_small_RLE.dcm", "DICOM MR, window 600 ± 800", False),
        ("MR_small_bigendian.dcm", "DICOM MR, window 600 ± 800", False),
        ("image_dfl.dcm", "DICOM OT, its full range of values", False),
        ("rtdose.dcm", "DICOM RTDOSE, frame 8 of 15, its full range of values", False),
        ("SC_rgb_rle_16bit_2frame.dcm", "DICOM OT, frame 2 of 2, in colour", True),
        ("SC_ybr_full_422_uncompressed.dcm", "DICOM OT, in colour", True),
        ("examples_palette.dcm", "DICOM US, in colour", True),
    ],
)
def test_the_files_that_pydicom_ships(name, note, colour):
    array, rendering = read_with_note(get_testdata_file(name, download=False), 64)
    assert rendering == note and array.shape == (64, 64, 3) and np.ptp(array) > 100
    assert (array[..., 0] != array[..., 2]).any() == colour
    if name.startswith("MR_small_"):
        plain = read_image(get_testdata_file("MR_small.dcm", download=False), 64)
        np.testing.assert_array_equal(array, plain)


def test_compression_without_its_decoder_names_the_package(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("all plugins are missing dependencies")

    monkeypatch.setattr("pydicom.pixels.pixel_array", refuse)
    path = get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    with pytest.raises(
        ImageError, match=r'JPEG-LS Lossless.*`pip install "pylibjpeg\[all\]"`'
    ) as caught:
        read_image(path)
    assert "PNG" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test-SR.dcm", "without an image (Comprehensive SR Storage)"),
        ("DICOMDIR-bigEnd", "without an image (Media Storage Directory Storage)"),
        ("MR_truncated.dcm", "damaged DICOM file"),
        ("badVR.dcm", "damaged DICOM file"),
    ],
)
def test_files_without_a_whole_image_say_so(name, reason):
    path = next(Path(pydicom.data.__file__).parent.rglob(name))
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert reason in str(caught.value) and str(path) in str(caught.value)


def test_too_many_pixels_and_a_missing_pydicom(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    with pytest.raises(ImageError, match="256 pixels are too many"):
        dicom.read_dicom(path, 255)
    assert dicom.read_dicom(path, 256)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match="pip install pydicom"):
        read_image(path)


def test_pydicom_is_imported_only_for_dicom(tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    write_dicom(tmp_path / "a.dcm", RAMP)
    code = (
        "import sys; from roco_caption.data.images import read_image\n"
        f"read_image({str(tmp_path / 'a.png')!r}); assert 'pydicom' not in sys.modules\n"
        f"read_image({str(tmp_path / 'a.dcm')!r}); assert 'pydicom' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def spoilt(path: Path, how: str) -> None:
    """Damage a file in a way that makes pydicom complain about it."""
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-40])
    elif how == "cut in the patient":
        path.write_bytes(content[: content.index(SECRET.encode()) + 3])
    elif how == "bad number":
        at = content.index(b"16\\") if b"16\\" in content else content.index(b"IS") + 4
        path.write_bytes(content[:at] + SECRET.encode()[:2] + content[at + 2 :])
    elif how == "long UID":  # it takes in all that comes after it
        at = content.index(b"\x08\0\x16\0UI") + 6
        path.write_bytes(
            content[at - 6 : at] + struct.pack("<H", len(content) - at - 2) + content[at + 2 :]
        )
    elif how == "bad kind":
        path.write_bytes(content.replace(b"PN", b"QQ", 1))


@pytest.mark.parametrize(
    "how",
    [
        "whole",
        "cut",
        "cut in the patient",
        "bad number",
        "bad kind",
        "window",
        "unknown",
        "long UID",
    ],
)
def test_no_patient_data_is_shown(tmp_path, capfd, caplog, how):
    caplog.set_level(0)
    elements = {"BurnedInAnnotation": "YES", "NumberOfFrames": 1}
    table = item(LUTExplanation=SECRET, LUTDescriptor=[4, 0], LUTData=bytes(8))
    elements |= {"VOILUTSequence": [table]} if how == "window" else {}
    elements |= {"PhotometricInterpretation": SECRET.upper()} if how == "unknown" else {}
    path = write_dicom(tmp_path / "a.dcm", RAMP, **elements)
    spoilt(path, how)
    texts = []
    try:
        _, note = read_with_note(path, 32)
        texts.append(note)
        assert "text is burned into it" in note
    except ImageError as error:
        texts += [str(error), "".join(traceback.format_exception(error))]
    list(image_batches([path], size=32))
    captured = capfd.readouterr()
    texts += [captured.out, captured.err, caplog.text]
    assert any(texts) and not [text for text in texts if SECRET.lower() in text.lower()]
    assert "19010203" not in "".join(texts)
    if how == "whole":
        assert SECRET in str(pydicom.dcmread(path))  # so the search can find it
    if how in ("cut", "window"):
        assert "damaged" in texts[0]


MANY_THREADS = """
import sys, warnings
from pathlib import Path
from roco_caption.data.images import image_batches
files = sorted(Path(sys.argv[1]).glob("*.dcm"))
assert sum(len(images) for _, images, _ in image_batches(files, size=32, workers=16)) == 0
assert ("ignore", None, Warning, None, 0) not in warnings.filters  # of all warnings
for change in (warnings.resetwarnings, lambda: warnings.simplefilter("always")):
    change()  # as users and IPython do
    assert sum(len(images) for _, images, _ in image_batches(files[:3], size=32)) == 0
"""


def test_no_patient_data_is_shown_by_any_of_several_threads(tmp_path):
    for i in range(80):
        spoilt(write_dicom(tmp_path / f"{i}.dcm", RAMP), "long UID")
    command = [sys.executable, "-c", MANY_THREADS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_identifiers_are_not_even_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(dicom, "_rendered", lambda dataset, _: read.append(dataset))
    dicom.read_dicom(write_dicom(tmp_path / "a.dcm", RAMP), 999)
    [dataset] = read
    assert "Rows" in dataset and "PixelData" in dataset and SECRET not in str(dataset)
    assert "PatientName" not in dataset and "PatientID" not in dataset
