"""From the training form of a CondenseNet to forms without masks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.nets.condensenet.config import CondenseNetConfig, Form
from offramp.nets.condensenet.net import CondenseNet, GatheredLayer, GatheredTransition, HalfLinear, reordered
from offramp.nets.dense_layers import DenseLayer, PooledExit, Transition
from offramp.nets.pruning import LearnedGroupConv, learned_convs


@torch.no_grad()
def convert(net: CondenseNet, forms: Sequence[Form], *, condense_classifier: bool = False) -> CondenseNet:
    """A copy whose learned convolutions have become something that only computes what is left of them.

    Args:
        net: trained; stays as it is.
        forms: of each learned convolution, in the order of the network.
        condense_classifier: keep only that half of the last linear layer's inputs whose weights are largest. Everything
            else gives the same answers up to rounding; this does not.

    Raises:
        ConfigError: the network has no learned convolutions, or they have not dropped their last portion; or a form for
            which there is no place.
    """
    _check(net)
    config = net.config.replace(forms=tuple(forms), condensed_classifier=condense_classifier, dropout=0.0)
    first = next(net.parameters())
    made = CondenseNet(config).to(first.device, first.dtype).train(net.training)
    (ours,), (theirs,) = made.chain, net.chain
    for new, old in zip(ours.parts, theirs.parts, strict=True):
        if isinstance(new, DenseLayer):
            assert isinstance(old, DenseLayer)
            fill_layer(new, old)
        elif isinstance(new, Transition):
            assert isinstance(old, Transition)
            _fill_conv(new, new.conv, new.norm.norm, old.conv, old.norm.norm)
        else:
            new.load_state_dict(old.state_dict())
    assert isinstance(ours.exit, PooledExit)
    assert isinstance(theirs.exit, PooledExit)
    _fill_exit(ours.exit, theirs.exit)
    return made


def _check(net: CondenseNet) -> None:
    config: CondenseNetConfig = net.config
    if config.forms or not config.learned:
        raise ConfigError("this CondenseNet has no learned convolutions to convert")
    if any(conv.stage < config.condense_factor - 1 for conv in learned_convs(net)):
        raise ConfigError(
            "not all learned convolutions have dropped their last portion; train the network to its end, then convert it"
        )


def fill_layer(new: DenseLayer, old: DenseLayer) -> None:
    """Give a layer of another form the values of one that has learned its groups."""
    assert new.bottleneck is not None
    assert old.bottleneck is not None
    _fill_conv(new, new.bottleneck, new.norm1.norm, old.bottleneck, old.norm1.norm)
    if isinstance(new, GatheredLayer) and not new.shuffles:
        new.norm2.norm.load_state_dict(reordered(old.norm2.norm, new.order).state_dict())
        new.conv.weight.copy_(_ungrouped(old.conv)[:, new.order])
    else:
        new.norm2.load_state_dict(old.norm2.state_dict())
        new.conv.weight.copy_(old.conv.weight if new.conv.groups == old.conv.groups else _ungrouped(old.conv))


def _fill_conv(
    owner: nn.Module, new: nn.Conv2d, new_norm: nn.BatchNorm2d, old: nn.Conv2d, old_norm: nn.BatchNorm2d
) -> None:
    """A convolution and the norm before it."""
    assert isinstance(old, LearnedGroupConv)
    if not isinstance(owner, GatheredLayer | GatheredTransition):
        new.weight.copy_(old.masked_weight())
        new_norm.load_state_dict(old_norm.state_dict())
        return
    index = [group.nonzero().flatten() for group in old.by_group(old.mask).any(0)]
    owner.index.copy_(torch.cat(index))
    new_norm.load_state_dict(reordered(old_norm, owner.index).state_dict())
    rows = [weights[:, places] for weights, places in zip(old.by_group(old.weight).unbind(1), index, strict=True)]
    new.weight.copy_(torch.cat(rows)[..., None, None])


def _ungrouped(conv: nn.Conv2d) -> Tensor:
    """Weights (out, in, kh, kw) of the same convolution in one group."""
    whole = conv.weight.new_zeros(conv.out_channels, conv.in_channels, *conv.kernel_size)
    out, into = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    for group, weights in enumerate(torch.split(conv.weight, out)):
        whole[group * out : (group + 1) * out, group * into : (group + 1) * into] = weights
    return whole


def _fill_exit(new: PooledExit, old: PooledExit) -> None:
    new.norm.load_state_dict(old.norm.state_dict())
    assert isinstance(old.linear, nn.Linear)
    if isinstance(new.linear, HalfLinear):
        index = half_of(old.linear)
        new.linear.index.copy_(index)
        new.linear.weight.copy_(old.linear.weight[:, index])
        assert new.linear.bias is not None
        new.linear.bias.copy_(old.linear.bias)
    else:
        new.linear.load_state_dict(old.linear.state_dict())


def half_of(linear: nn.Linear) -> Tensor:
    """The half of the inputs with the largest sums of absolute weights, in ascending order of these."""
    importance = linear.weight.abs().sum(0)
    return importance.argsort(stable=True)[linear.in_features - linear.in_features // 2 :]
