"""Small images, a stand-in for VGG16, and an extraction with both."""

from pathlib import Path

import keras
import numpy as np
from PIL import Image

from roco_caption.features.extract import extract_features

# A process that extracts slowly, and writes each batch as a part of its own.
SLOW = """
    import sys, time
    sys.path[:0] = [{root!r}, {tests!r}]
    from pathlib import Path
    from helpers import toy_features
    from roco_caption.features import cache, extract
    def slow(*arguments, **options):
        model = toy_features.tiny_encoder(*arguments, **options)
        predict = model.predict_on_batch
        def on_batch(pixels):
            time.sleep(0.15)
            return predict(pixels)
        model.predict_on_batch = on_batch
        return model
    extract.build_encoder = slow
    cache.FLUSH_SECONDS = 0
    images = {{path.stem: path for path in sorted(Path({images!r}).glob("*.png"))}}
    toy_features.extract(images, {folder!r})
"""


def make_images(folder: Path, count: int) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(folder / f"image{i:03d}.png")
    return {path.stem: path for path in sorted(folder.glob("*.png"))}


def tiny_encoder(name, weights, *, seed=0, precision="float32", with_grid=False):
    """Stands in for VGG16: mean and deviation of each channel; quarters' means as its grid."""
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    x = keras.ops.cast(pixels, "float32")
    output = keras.ops.concatenate([keras.ops.mean(x, (1, 2)), keras.ops.std(x, (1, 2))], axis=-1)
    quarters = keras.ops.mean(keras.ops.reshape(x, (-1, 2, 112, 2, 112, 3)), (2, 4))
    outputs = [output, keras.ops.reshape(quarters, (-1, 4, 3))]
    return keras.Model(pixels, outputs if with_grid else output, name=name)


def extract(images, folder, **options):
    return extract_features(images, folder, **({"weights": "random", "batch_size": 4} | options))
