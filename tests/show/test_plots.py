"""Every figure of the notebook shows what it should, and describes it in its alt text."""

import inspect
import unicodedata
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from roco_caption.show import plots
from roco_caption.show.plots import word_map_figure
from roco_caption.text.tokenizer import END, CaptionTokenizer
from roco_caption.text.words import JOINER


def every_figure(folder, captions):
    """Return one figure of each function by its name, for three images of which one is missing."""
    for i in range(2):
        Image.new("RGB", (30, 30), (90 * i, 0, 0)).save(folder / f"{i}.png")
    frame = pd.DataFrame({"id": list("abc"), "caption": captions})
    frame["image"] = [str(folder / f"{i}.png") for i in range(3)]
    history = pd.DataFrame({"loss": [4.0, 2.0], "val_loss": [3.0, 3.5]}, index=[1, 2])
    generated = pd.DataFrame({"caption": ["a lesion", captions[0], ""]})
    words = [captions[1].split()[0], "of", "mass"]
    image, note = frame.image[0], captions[1]
    return {
        "sample_images": plots.sample_images(frame, note=note),
        "caption_under_image": plots.caption_under_image(image, captions[0], captions[1], note),
        "gallery": plots.gallery(frame, generated, np.array([3.0, 2.0, 1.0]), each=1, note=note),
        "image_beside": plots.image_beside(image, captions[0], "", "DICOM CT", frame[1:], note),
        "caption_lengths": plots.caption_lengths({"train": frame, "test": frame[:2]}, 20),
        "training_curves": plots.training_curves(history),
        "word_map_figure": word_map_figure(image, words, np.eye(3, 9)[[0, 1, 2]], note),
    }


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    captions = ['axial ct of a "left" <mass>', "chest film", "no image " + "at all " * 40]
    return every_figure(tmp_path_factory.mktemp("images"), captions)


def test_alt_texts_describe_the_figures(figures):
    alts = {name: figure.alt for name, figure in figures.items()}
    assert "3 training images" in alts["sample_images"]
    assert '"left" <mass>' in alts["sample_images"] and "“chest film”" in alts["sample_images"]
    assert alts["caption_under_image"].endswith("<mass>”, “reference: chest film”.")
    assert "“best: CIDEr 3.00”, “a lesion”, “reference: axial ct of a" in alts["gallery"]
    assert "“worst: CIDEr 1.00”, “(no words)”" in alts["gallery"]
    assert "“DICOM CT”. Image 2: “training image, nearest 1”, “chest" in alts["image_beside"]
    assert "test: 2 captions, median 5 words, 0% longer than 20" in alts["caption_lengths"]
    assert "train: 3 captions, median 8 words, 33% longer than 20" in alts["caption_lengths"]
    assert "Validation: from 3.000 to 3.500" in alts["training_curves"]
    assert "epoch 1 were kept, validation loss 3.000" in alts["training_curves"]
    assert "“chest” top left, “mass” top right" in alts["word_map_figure"]
    assert all(len(alt) < 1500 for alt in alts.values())


def test_every_function_that_draws_a_figure_is_tested(figures):
    functions = inspect.getmembers(plots, inspect.isfunction)
    drawing = {
        name for name, f in functions if f.__annotations__.get("return") == "DescribedFigure"
    }
    assert {name for name in drawing if not name.startswith("_")} == set(figures)


def test_dollar_signs_in_captions_are_not_read_as_formulas(tmp_path):
    captions = ["$$T_2^*$$ map", r"$\frac{$ is invalid", "$_$"]
    for figure in every_figure(tmp_path, captions).values():
        figure.draw_without_rendering()


@pytest.mark.parametrize(
    "caption",
    [
        "T2* map $$T_2^*$$ of the heart", "छाती का एक्स-रे", "胸部X线片", "صُورَة بِالأَشِعَّة", "🫁 lung",
        "a\x00b\x07 \x1b[0m\u2028c", "x" * 300, "<b>mass</b> &amp; <script>alert(1)</script>", " ",
    ],
)  # fmt: skip
def test_any_caption_is_drawn_as_it_is_and_without_warnings(tmp_path, caption, recwarn):
    for figure in every_figure(tmp_path, [caption, f"a {caption}", caption]).values():
        page = figure._repr_html_()
        assert "<script>" not in page and "\x00" not in page
        assert not any(unicodedata.category(letter) == "Cc" for letter in figure.alt)
    assert not [str(warning.message) for warning in recwarn]


def test_lengths_are_counted_as_captions_are_truncated():
    captions = ["T2-weighted, 5mm (arrow)", "no", "Crohn's"]
    figure = plots.caption_lengths({"train": pd.DataFrame({"caption": captions})}, 4)
    assert "median 2 words, 33% longer than 4" in figure.alt
    truncated = CaptionTokenizer.fit(captions, min_frequency=1, max_words=4).encode(captions)
    assert (truncated != END).all(axis=1).mean() == pytest.approx(1 / 3)


@pytest.mark.parametrize("captions", [["a b"], ["a b"] * 9, ["", ""], ["..."]])
def test_few_or_equal_captions_have_a_histogram(captions, recwarn):
    frames = {"train": pd.DataFrame({"caption": captions}), "test": pd.DataFrame({"caption": []})}
    plots.caption_lengths(frames, 50).draw_without_rendering()
    assert not [str(warning.message) for warning in recwarn]


def test_one_epoch_has_a_curve_and_whole_ticks():
    history = pd.DataFrame({"loss": [4.0], "val_loss": [3.0]}, index=[1])
    figure = plots.training_curves(history)
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert ticks == [1] and "over 1 epochs" not in figure.alt


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_gallery_of_few_images_shows_each_once(image, n):
    frame = pd.DataFrame({"image": [image] * n, "caption": [f"caption {i}" for i in range(n)]})
    figure = plots.gallery(frame, frame, np.arange(n, dtype=float))
    assert len(drawn(figure)) == n
    assert len(drawn(plots.sample_images(frame))) == n


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ((True, True, True, False), ["right: modality, finding, side", "wrong: size"]),
        ((True, True, True, True), ["right: modality, finding, side, size"]),
        ((False, False, False, False), ["wrong: modality, finding, side, size"]),
        ((False, True, False, True), ["right: finding, size", "wrong: modality, side"]),
    ],
)
def test_the_gallery_says_which_claims_are_right_in_words(image, claims, shown):
    frame = pd.DataFrame({"image": [image], "caption": ["a mass"]})
    right = pd.DataFrame([claims], columns=["modality", "finding", "side", "size"])
    figure = plots.gallery(frame, frame, np.ones(1), right=right)
    quoted = ", ".join(f"“{text}”" for text in ["a mass", *shown, "reference: a mass"])
    assert figure.alt.endswith(f"{quoted}.")
    texts = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert not any(text.startswith(("right", "wrong")) and text not in shown for text in texts)
    assert len({texts[text] for text in shown}) == len(shown)


def order_of(figure):
    """Return the captions of a gallery, from the best to the worst."""
    return [axis.texts[1].get_text() for axis in figure.axes]


@pytest.mark.parametrize(
    ("counts", "cider", "order"),
    [
        ([3, 4, 4], [9.0, 1.0, 2.0], "cba"),  # fluent but wrong in one is not the best
        ([0, 1, 2], [3.0, 2.0, 1.0], "cba"),
        ([4, 4, 4], [1.0, 3.0, 2.0], "bca"),
        ([2, 2, 2], [1.0, 1.0, 1.0], "abc"),
    ],
)
def test_the_gallery_orders_by_claims_right_then_by_cider(image, counts, cider, order):
    frame = pd.DataFrame({"image": image, "caption": list("abc")})
    right = pd.DataFrame([[k < n for k in range(4)] for n in counts], columns=list("wxyz"))
    figure = plots.gallery(frame, frame, np.array(cider), each=1, right=right)
    assert order_of(figure) == list(order)


@pytest.mark.parametrize("cider", [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
def test_without_known_claims_the_gallery_orders_by_cider(image, cider):
    frame = pd.DataFrame({"image": image, "caption": list("abc")})
    figure = plots.gallery(frame, frame, np.array(cider), each=1)
    assert order_of(figure) == sorted("abc", key=lambda name: -cider["abc".index(name)])
    assert "right" not in figure.alt and "wrong" not in figure.alt


def test_all_references_of_an_image_are_shown(image):
    figure = plots.caption_under_image(image, "a mass", ["one", "two"])
    assert figure.alt.endswith("“a mass”, “reference: one”, “reference: two”.")


def test_heat_maps_name_signs_without_their_joiners(image):
    figure = word_map_figure(image, [f"{JOINER}%"], one_cell(3)[None])
    assert [axis.get_title() for axis in drawn(figure)][1] == "%"


def test_a_missing_image_is_named_in_its_place(figures):
    texts = [text.get_text() for axis in figures["gallery"].axes for text in axis.texts]
    assert texts.count("cannot be decoded") == 1


def test_texts_below_an_image_overlap_neither_each_other_nor_the_next_image(tmp_path):
    long = "a word and another " * 20
    path = str(tmp_path / "grey.png")
    Image.new("RGB", (30, 30), (9, 9, 9)).save(path)
    frame = pd.DataFrame({"id": range(6), "image": path, "caption": long})
    figure = plots.gallery(frame, frame, np.ones(6), each=2)
    figure.draw_without_rendering()
    upper, lower = figure.axes[0], figure.axes[3]
    boxes = [text.get_window_extent() for text in upper.texts]
    assert (
        upper.get_window_extent().y0 > boxes[0].y1 and boxes[-1].y0 > lower.get_window_extent().y1
    )
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))


def one_cell(cell, weight=0.9):
    weights = np.full(49, (1 - weight) / 48, np.float32)
    weights[cell] = weight
    return weights


def drawn(figure):
    return [axis for axis in figure.axes if axis.images]


@pytest.fixture
def image(tmp_path):
    Image.new("L", (60, 40), 90).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_each_content_word_has_a_heat_map_on_one_scale(image):
    words = ["a", "small", "left", "effusion", "on", "chest", "radiograph"]
    strengths = (0.9, 0.3, 0.8, 0.4, 0.9, 0.1, 0.25)
    weights = np.stack([one_cell(i, weight) for i, weight in enumerate(strengths)])
    figure = word_map_figure(image, words, weights, note="synthetic")
    panels = drawn(figure)
    titles = [axis.get_title() for axis in panels]
    assert titles == ["the image", "small", "left", "effusion", "radiograph"]  # "chest" is weak
    tops = [float(axis.images[1].get_array().max()) for axis in panels[1:]]
    assert tops == pytest.approx([0.375, 1, 0.5, 0.3125], abs=0.08)
    assert len(panels[0].images) == 1 and figure.get_suptitle() == "synthetic"
    assert "“left” top centre" in figure.alt and "chest" not in figure.alt


@pytest.mark.parametrize(
    ("words", "weights", "titles"),
    [
        (["mass", "of"], -np.eye(2, 49), []),
        (["mass", "no", "mass"], np.stack([one_cell(3)] * 3), ["mass", "no"]),
        (list("bcdefghi") * 5, np.stack([one_cell(3)] * 40), list("bcdefgh")),
        ([], np.zeros((0, 49)), []),
    ],
    ids=["unsupported", "repeated", "too many", "no words"],
)
def test_words_without_a_heat_map(image, words, weights, titles):
    figure = word_map_figure(image, words, weights, panels=8)
    assert [axis.get_title() for axis in drawn(figure)] == ["the image", *titles]
    assert ("No maps" in figure.alt) == (not titles)


def test_several_references_leave_room_for_the_images(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (64, 64), 90).save(path)
    references = [f"{k}. " + "The lungs are clear and the heart is of normal size. " * 6
                  for k in range(5)]  # fmt: skip
    frame = pd.DataFrame({"image": [path] * 2, "caption": "x", "references": [references] * 2})
    captions = pd.DataFrame({"caption": ["a mass in the left lung"] * 2})
    figure = plots.gallery(frame, captions, np.array([1.0, 0.5]))
    assert [f"{k}. The lungs" in figure.alt for k in range(5)] == [True] * 3 + [False] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of axes that collapsed
        figure.savefig(tmp_path / "figure.png")
    heights = [axis.get_window_extent().height / figure.dpi for axis in figure.axes]
    assert min(heights) > 1.5  # inches
