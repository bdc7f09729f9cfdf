from dataclasses import replace
from pathlib import Path

import pytest
import torch

from offramp.catalog import entries
from offramp.classifier import Classifier
from offramp.data.folder import read_classes
from offramp.data.source import Samples, SourceSpec
from offramp.data.workers import Workers
from offramp.decide.accuracy import ExitAccuracy, exit_accuracy
from offramp.errors import ConfigError
from offramp.report.evaluation import evaluate_ten_crops
from pictures import write_classes
from tiny import PREPROCESSING, make_classifier, make_net

CROPPED = replace(PREPROCESSING, resize=20)


@pytest.fixture
def cropping() -> Classifier:
    """It resizes to more than it sees."""
    return Classifier(make_net(), ("a", "b", "c", "d"), CROPPED)


@pytest.fixture
def pictures_of_four(tmp_path: Path) -> Samples:
    folder = write_classes(tmp_path / "pictures", a=5, b=6, c=4, d=5)
    return read_classes(folder, ("a", "b", "c", "d")).prepared(CROPPED, Workers(0))


def test_the_logits_of_ten_crops_of_each_image_are_averaged(cropping: Classifier, pictures_of_four: Samples) -> None:
    done: list[int] = []
    found = evaluate_ten_crops(cropping, pictures_of_four, done.append)
    averaged = []
    for row in range(20):
        crops = CROPPED.ten_crops(pictures_of_four.image(row))
        averaged.append(cropping.net(CROPPED.normalize(torch.from_numpy(crops))).detach().mean(1))
    assert found == exit_accuracy(torch.stack(averaged, dim=1), pictures_of_four.labels)
    assert found != evaluate_centre(cropping, pictures_of_four)
    assert done == [16, 20]


def evaluate_centre(classifier: Classifier, samples: Samples) -> ExitAccuracy:
    return exit_accuracy(classifier.collect(samples), samples.labels)


def test_ten_crops_are_refused_where_there_is_nothing_to_crop_from(
    cropping: Classifier, pictures_of_four: Samples
) -> None:
    digits: SourceSpec = entries("data", "SOURCES")["digits"]
    blind = Classifier(make_net(), ("a", "b", "c", "d"), None)
    for model, samples in (
        (cropping, digits.open().split("test")),
        (make_classifier(), pictures_of_four),
        (blind, pictures_of_four),
    ):
        with pytest.raises(ConfigError, match="ten crops are cut from images larger than the network sees"):
            evaluate_ten_crops(model, samples)
