"""One of the processes of tests/training/test_replicas.py, given KIND FOLDER [RANK PORTS NAMES…].

KIND is "mirrored", two virtual devices in one process, or "machines", one of two processes.
"""

import json
import os
import sys
import time
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here.parent), str(here.parents[1])]
kind, folder = sys.argv[1], Path(sys.argv[2])
rank = 0
if kind == "machines":
    rank, ports = int(sys.argv[3]), sys.argv[4].split(",")
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})

import tensorflow as tf

if kind == "mirrored":
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
else:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

from helpers import (
    toy_features,
    toy_training,
)

from roco_caption.features import extract
from roco_caption.training import loop


def run(name: str, dropout: float) -> None:
    """Train as the first process alone writes; each keeps what it ended with."""
    toy_training.SIZES.update(dropout=dropout, image_dropout=dropout)
    data = toy_training.toy(97, 0), toy_training.toy(41, 1)  # no number goes into two
    decoder = toy_training.fresh()
    options = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "strategy": strategy}
    history = loop.train(decoder, *data, folder / name, **options)
    history.to_csv(folder / f"{name}-{rank}.csv")


if kind == "mirrored":
    run("plain", 0.0)
    extract.build_encoder = toy_features.tiny_encoder
    images = toy_features.make_images(folder / "images", 22)
    toy_features.extract(images, folder, with_grid=True)
elif "slow" in sys.argv:
    loop.SAVE_SECONDS = 0  # a state after every step
    step = loop.Replicas.train_on_batch

    def slow(*arguments):
        print("step", flush=True)
        time.sleep(0.2)
        return step(*arguments)

    loop.Replicas.train_on_batch = slow
    run("killed", 0.2)
else:
    for name, dropout in (("plain", 0.0), ("whole", 0.2), ("killed", 0.2)):
        if name in sys.argv:
            run(name, dropout)
