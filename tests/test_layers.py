import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from offramp.nets.layers import ConvNormReLU, Exit, he_fan_out_


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("size", [5, 8])
def test_a_convolution_keeps_the_size_and_a_strided_one_halves_it_rounded_up(kernel_size: int, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    assert ConvNormReLU(3, 4, kernel_size)(images).shape == (2, 4, size, size)
    assert ConvNormReLU(3, 4, kernel_size, stride=2)(images).shape == (2, 4, math.ceil(size / 2), math.ceil(size / 2))


def test_a_convolution_is_followed_by_norm_and_relu_and_has_no_bias() -> None:
    layer = ConvNormReLU(3, 4, 3)
    images = torch.randn(8, 3, 6, 6)
    convolution = layer[0]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is None
    raw = F.conv2d(images, convolution.weight, padding=1)
    mean, var = raw.mean((0, 2, 3), keepdim=True), raw.var((0, 2, 3), unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(images), ((raw - mean) / (var + 1e-5).sqrt()).clamp(min=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
def test_an_exit_pools_as_the_authors_do_at_the_sizes_they_have(size: int) -> None:
    layer = Exit(6, 10, 3).eval()
    features = torch.randn(2, 6, size, size)
    twice = layer.features[1](layer.features[0](features))
    pooled = F.avg_pool2d(twice, 2).flatten(1)
    torch.testing.assert_close(layer(features), layer.linear(pooled))


@pytest.mark.parametrize("size", [1, 2, 4, 9, 13])
def test_an_exit_takes_features_of_any_size(size: int) -> None:
    assert Exit(6, 10, 3).eval()(torch.randn(2, 6, size, size)).shape == (2, 3)


@pytest.mark.parametrize(("kernel_size", "groups"), [(3, 1), (1, 1), (7, 1), (3, 4)])
def test_convolutions_are_drawn_from_he_s_normal_over_the_fan_out(kernel_size: int, groups: int) -> None:
    layer = nn.Conv2d(128, 256, kernel_size, groups=groups)
    he_fan_out_(layer)
    expected = math.sqrt(2 / (kernel_size**2 * 256))
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.03 * expected)
    tail = (layer.weight.abs() > 2 * expected).float().mean().item()
    assert tail == pytest.approx(0.0455, abs=0.006)  # two sigma of a normal; a uniform has nothing there


def test_norms_start_at_one_and_zero_and_linear_layers_at_pytorch_s_range_without_bias() -> None:
    net = nn.Sequential(nn.BatchNorm2d(8), nn.Linear(400, 300))
    norm, linear = net
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.fill_(7)
    he_fan_out_(net)
    for tensor, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
        assert tensor is not None
        assert (tensor == value).all()
    assert (linear.bias == 0).all()
    bound = 1 / math.sqrt(400)
    assert bound * 0.99 < linear.weight.abs().max().item() <= bound
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_initialisation_leaves_no_gradient_behind() -> None:
    net = nn.Sequential(ConvNormReLU(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    he_fan_out_(net)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in net.parameters())
