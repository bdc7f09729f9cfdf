"""Every family learns 200 images of CIFAR-10 by heart through ``offramp train``; minutes."""

from pathlib import Path

import numpy as np
import pytest

import offramp as package
from offramp.catalog import entries
from offramp.data.detect import named_source
from offramp.data.holdout import Holdout
from tiny import offramp

TINY = Path(__file__).parents[2] / "shared" / "data" / "cifar10_tiny"
NETWORKS = {  # by family: variant, epochs, learning rate, side in pixels
    "msdnet": ("msdnet-cifar-batch-3", 30, 0.03, 32),
    "resnet": ("resnet-cifar-8", 30, 0.03, 32),
    "densenet": ("densenet-cifar-small", 50, 0.1, 32),
    "condensenet": ("condensenet-cifar-small", 25, 0.1, 32),
    "fractalnet": ("fractalnet-cifar-small", 90, 0.03, 32),  # its longest column is deep, and has no shortcuts
    "ensemble": ("ensemble-cifar-small", 30, 0.03, 32),
    "attached": ("mobilenet", 30, 0.03, 64),  # which leaves one pixel of 32
}
IMAGES, TRAINED = 1000, 200
PLAIN = ("crop_pad=0", "flip=false", "label_smoothing=0", "weight_decay=0", "batch_size=20", "warmup_epochs=1")


def test_no_family_is_left_out() -> None:
    assert set(NETWORKS) == set(entries("nets", "CONFIG"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not TINY.is_dir(), reason="no copy of the first rows of CIFAR-10 in ../shared/data")
@pytest.mark.parametrize("family", NETWORKS)
def test_a_network_of_the_family_learns_them_by_heart(family: str, tmp_path: Path) -> None:
    variant, epochs, rate, side = NETWORKS[family]
    settings = (f"variant={variant}", f"epochs={epochs}", f"learning_rate={rate}", *PLAIN)
    asked = [part for setting in settings for part in ("--set", setting)]
    out = tmp_path / "run"
    data = ("--data", TINY, "--holdout", IMAGES - TRAINED, "--size", side, "--workers", 0, "--device", "cpu")
    assert offramp("train", "small-cifar", *data, "--out", out, *asked) == 0
    model = package.load(out, runtime="eager")
    assert model.preprocessing is not None
    learned = named_source(str(TINY), model.preprocessing).open(holdout=Holdout(size=IMAGES - TRAINED)).split("train")
    assert len(learned) == TRAINED
    (pixels,) = learned.batches(TRAINED)
    assert (model.predict(pixels).label == np.asarray(learned.labels)).mean() >= 0.95
