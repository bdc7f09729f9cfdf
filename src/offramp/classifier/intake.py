"""From images as users have them to what runtimes take."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.classifier.running import Running
from offramp.data.preprocess import Images, Preprocessing
from offramp.errors import DataError


class Intake:
    """Decodes and normalises what a model is given.

    Args:
        preprocessing: of the model, if it knows.
        running: tells the device images are wanted on.
    """

    def __init__(self, preprocessing: Preprocessing | None, running: Running) -> None:
        self.known = preprocessing
        self._running = running

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through.

        Raises:
            DataError: the model does not know.
        """
        if self.known is None:
            raise DataError(
                "this model does not know what its images went through; import it again with --data, "
                "or with --mean, --std and --size"
            )
        return self.known

    def decode(self, images: Images) -> NDArray[np.uint8]:
        """Pixels (N, H, W, C)."""
        return self.preprocessing.decode(images)

    def normalize(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What the network takes, (N, C, H, W)."""
        return self.preprocessing.normalize(torch.from_numpy(pixels).to(self._running.device))

    def noise(self, count: int) -> Tensor:
        """Normalised images of nothing, (count, C, H, W)."""
        return self.normalize(self.preprocessing.noise(count))

    def pieces(self, batches: Iterable[NDArray[np.uint8]], size: int) -> Iterator[Tensor]:
        """Normalised, at most ``size`` images each."""
        for pixels in batches:
            for first in range(0, max(1, len(pixels)), size):
                yield self.normalize(pixels[first : first + size])
