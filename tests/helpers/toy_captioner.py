"""A small captioner with a stand-in encoder."""

import keras

from roco_caption.decoder.model import build_decoder
from roco_caption.search.captioner import Captioner, Search
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.checkpoint import Progress, save_best

CAPTIONS = ["axial ct shows a large left mass", "chest radiograph shows no mass"] * 2


ENCODER = {
    "name": "vgg16", "layer": "fc2", "weights": "random seed 4", "image_size": 224,
    "requested": {"weights": "random", "seed": 4},
}  # fmt: skip


def tiny_encoder(name, weights, *, seed=0, precision="float32", with_grid=False):
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    scaled = keras.ops.cast(pixels, "float32") / 255
    output = keras.ops.mean(scaled, (1, 2)) * (1 + seed)
    quarters = keras.ops.mean(keras.ops.reshape(scaled, (-1, 2, 112, 2, 112, 3)), (2, 4))
    outputs = [output, keras.ops.reshape(quarters, (-1, 4, 3))]
    return keras.Model(pixels, outputs if with_grid else output, name=name)


def make(encoder=ENCODER, **more) -> Captioner:
    tokenizer = CaptionTokenizer.fit(CAPTIONS, min_frequency=1, max_words=8)
    sizes = {
        "vocab_size": tokenizer.vocab_size, "max_len": 9, "feature_size": 3, "components": 3,
        "embedding_size": 8, "units": 12, "dropout": 0.1, **more,
    }  # fmt: skip
    keras.utils.set_random_seed(0)
    decoder = build_decoder(**sizes)
    return Captioner(decoder, tokenizer, encoder=encoder, search=Search(beams=2))


def save_trained(captioner: Captioner, folder) -> None:
    """Save a captioner and its weights, as after a training."""
    progress = Progress({})
    save_best(captioner.decoder.every_word, folder, progress)
    captioner.decoder.weights_file = progress.weights_file
    captioner.__post_init__()  # as if it were made after the training
    captioner.save(folder)
