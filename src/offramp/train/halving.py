"""A short fine-tune of a classifier that has lost half of its inputs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.classifier import Classifier
from offramp.classifier.identity import stored_form
from offramp.data.source import Samples
from offramp.errors import ConfigError
from offramp.nets.chain import joined
from offramp.nets.condensenet.net import CondenseNet, HalfLinear
from offramp.nets.dense_layers import PooledExit

MOST = 50_000
"""Training images that are looked at, at most: what the linear layer reads of them is kept in memory."""
EPOCHS, BATCH, RATE = 20, 256, 0.02
_AT_ONCE = 128


def fine_tune(classifier: Classifier, samples: Samples, report: Callable[[int], None] | None = None) -> None:
    """Train the condensed last layer alone, in place, on images that are run through the network once.

    What is trained ends in the form in which the model is stored, so that whatever is measured of it holds.

    Args:
        classifier: converted, its classifier condensed.
        samples: training images; of more than 50,000 some drawn at random.
        report: told how many images are done.

    Raises:
        ConfigError: the last layer has not been condensed.
    """
    linear = _linear(classifier)
    if linear is None:
        raise ConfigError("the last layer of this network has not been condensed; there is nothing to fine-tune")
    dice = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(samples), generator=dice)[:MOST].sort().values
    some = samples.take(rows.numpy())
    features, labels = _read(classifier, some, report)[:, linear.index.cpu()], torch.from_numpy(some.labels)
    weights = [weight.detach().cpu().clone().requires_grad_() for weight in (linear.weight, linear.bias)]
    optimizer = torch.optim.SGD(weights, RATE, 0.9, weight_decay=1e-4, nesterov=True)
    steps = EPOCHS * -(-len(features) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(features), generator=dice), BATCH):
            loss = F.cross_entropy(F.linear(features[rows], *weights), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        linear.weight.copy_(weights[0])
        linear.bias.copy_(weights[1])
    classifier.net.load_state_dict(stored_form(classifier.net.state_dict(), classifier.storage))


def _linear(classifier: Classifier) -> HalfLinear | None:
    halves = [module for module in classifier.net.modules() if isinstance(module, HalfLinear)]
    return halves[-1] if halves else None


@torch.no_grad()
def _read(classifier: Classifier, samples: Samples, report: Callable[[int], None] | None) -> Tensor:
    """What the last layer is given, (N, channels), before it picks its half."""
    assert isinstance(classifier.net, CondenseNet)
    (stage,) = classifier.net.chain
    assert isinstance(stage.exit, PooledExit)
    parts, done = [], 0
    for pixels in samples.batches(_AT_ONCE):
        images = classifier.intake.normalize(classifier.intake.decode(pixels))
        parts.append(stage.exit.pooled(joined(stage.features((images,)))).cpu())
        done += len(pixels)
        if report is not None:
            report(done)
    return torch.cat(parts)
