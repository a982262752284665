"""Out of memory while encoding and captioning: a clear message, and no result is lost."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import toy_captioner
from helpers.toy_features import extract, make_images, tiny_encoder

from roco_caption.core.errors import OutOfMemory
from roco_caption.data import images
from roco_caption.features import extract as features

TESTS = Path(__file__).parents[1]
EXHAUSTED = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def failing(function, error, at: int, calls: list):
    """Return the function with an error (or what raises one) at its `at`-th call."""

    def wrapper(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            raise error
        return function(*arguments, **options)

    return wrapper


def test_encoding_says_what_to_lower_and_keeps_finished_batches(tmp_path, monkeypatch):
    pictures, calls = make_images(tmp_path / "images", 20), []

    def encoder(*arguments, **options):
        model = tiny_encoder(*arguments, **options)
        model.predict_on_batch = failing(model.predict_on_batch, EXHAUSTED, 4, calls)
        return model

    monkeypatch.setattr(features, "build_encoder", encoder)
    with pytest.raises(OutOfMemory, match=r"Out of memory while encoding.*batch_size=2"):
        extract(pictures, tmp_path)
    made = extract(pictures, tmp_path)
    assert made.ids == list(pictures) and len(calls) == 4 + 2  # three batches were kept


REAL = """
    import sys
    sys.path[:0] = [{root!r}, {tests!r}]
    import resource
    from pathlib import Path
    import keras, numpy as np
    from helpers import toy_features
    from roco_caption.core.errors import UserError
    from roco_caption.features import extract as features
    def encoder(*arguments, **options):
        model = toy_features.tiny_encoder(*arguments, **options)
        # no convolution: where it gets no memory oneDNN's may crash, which only a new start helps
        wide = keras.ops.repeat(keras.ops.cast(model.input, "float32"), 512, axis=-1)
        wide = keras.Model(model.input, [model.output, keras.ops.max(wide, (1, 2))])
        predict, calls = model.predict_on_batch, []
        def on_batch(pixels):
            calls.append(1)
            if len(calls) == 3:
                wide.predict_on_batch(pixels[:1])  # threads have their memory before
                used = int(Path("/proc/self/statm").read_text().split()[0])
                limit = used * resource.getpagesize() + (1 << 30)  # 9.8 are asked for
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                wide.predict_on_batch(np.concatenate([pixels] * 8))
            return predict(pixels)
        model.predict_on_batch = on_batch
        return model
    features.build_encoder = encoder
    images = {{path.stem: path for path in sorted(Path({images!r}).glob("*.png"))}}
    try:
        toy_features.extract(images, {folder!r})
    except UserError as error:
        print(error)
"""


@pytest.mark.tensorflow("others take their memory in advance")
@pytest.mark.slow
def test_encoding_in_a_process_that_may_take_no_more_memory(tmp_path, monkeypatch):
    """TensorFlow really fails to allocate: the limit is the system's."""
    pictures = make_images(tmp_path / "images", 12)
    places = {"root": str(TESTS.parent), "tests": str(TESTS), "images": str(tmp_path / "images")}
    code = textwrap.dedent(REAL.format(**places, folder=str(tmp_path)))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Out of memory while encoding" in result.stdout, result.stderr[-2000:]
    monkeypatch.setattr(features, "build_encoder", tiny_encoder)
    batches, seen = features.image_batches, []
    monkeypatch.setattr(
        features, "image_batches", lambda paths, **o: seen.extend(paths) or batches(paths, **o)
    )
    assert extract(pictures, tmp_path).ids == list(pictures)
    assert seen == list(pictures.values())[8:]


def test_an_image_is_not_taken_for_damaged_when_out_of_memory(tmp_path, monkeypatch):
    pictures = make_images(tmp_path / "images", 6)
    monkeypatch.setattr(features, "build_encoder", tiny_encoder)
    with monkeypatch.context() as patch:
        patch.setattr(images.Image, "open", failing(images.Image.open, MemoryError(), 3, []))
        with pytest.raises(OutOfMemory, match=r"decoding .*image\d+\.png"):
            extract(pictures, tmp_path)
    made = extract(pictures, tmp_path)
    assert sorted(made.ids) == list(pictures) and not made.skipped


def test_captioning_says_what_to_lower(monkeypatch):
    captioner = toy_captioner.make()
    captioner._search_function = lambda *_: failing(None, EXHAUSTED, 1, [])
    with pytest.raises(OutOfMemory, match=r"Out of memory while captioning.*lower BEAMS"):
        captioner.caption_features(np.zeros((2, 3), np.float32))
