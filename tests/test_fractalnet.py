"""FractalNets: the paper's recursion, what runs of columns share, and drop-path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.measure.macs import direct_macs, staged_macs
from offramp.nets.fractalnet import VARIANTS, FractalNet, FractalNetConfig
from offramp.nets.fractalnet.net import Column, FractalConv, Join
from shapes_only import parameters, shapes_only

SMALL: dict[str, Any] = {"widths": (4, 8), "image_size": 8, "num_classes": 3}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"columns": 0}, "columns=0: a FractalNet wants a whole number of at least 1 here"),
    ({"widths": ()}, "widths=(): give a tuple with one whole number per block"),
    ({"widths": (4, 0)}, "widths=0: a FractalNet wants a whole number of at least 1 here"),
    ({"drop_path": 1.0}, "drop_path=1.0: must be at least 0, below 1"),
    ({"dropout": -0.1}, "dropout=-0.1: must be at least 0, below 1"),
    ({"image_size": 1}, "image_size=1: a FractalNet wants a whole number of at least 2 here"),
]  # fmt: skip


def built(shake: Callable[[nn.Module], None], **changes: Any) -> FractalNet:
    net = FractalNetConfig(**(SMALL | changes)).build()
    shake(net)
    assert isinstance(net, FractalNet)
    return net.eval()


def fractal(columns: list[Column], block: int, features: Tensor) -> Tensor:
    """The block by the paper's rule: f of one column convolves, and each further one is f twice beside a convolution."""
    convs = [iter(column.convs(block)) for column in columns]

    def ways(number: int, given: Tensor) -> list[Tensor]:
        made = next(convs[number])(given, True)
        if number == len(columns) - 1:
            return [made]
        return [*ways(number + 1, torch.stack(ways(number + 1, given)).mean(0)), made]

    return torch.stack(ways(0, features)).mean(0)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_the_last_exit_is_the_fractal_of_the_paper(columns: int, shake: Callable[[nn.Module], None]) -> None:
    net = built(shake, columns=columns)
    images = torch.randn(2, 3, 8, 8)
    stages = [stage for stage in net.stages if isinstance(stage, Column)]
    with torch.inference_mode():
        features = fractal(stages, 1, F.max_pool2d(fractal(stages, 0, images), 2))
        expected = net.stages[-1].exit(features)  # type: ignore[operator]
        torch.testing.assert_close(net(images)[-1], expected, rtol=1e-5, atol=1e-5)


def test_an_earlier_exit_is_one_column_alone(shake: Callable[[nn.Module], None]) -> None:
    net = built(shake)
    images = torch.randn(2, 3, 8, 8)
    for k, stage in enumerate(net.stages[:-1]):
        assert isinstance(stage, Column)
        assert [len(stage.convs(block)) for block in (0, 1)] == [2**k, 2**k]
        with torch.inference_mode():
            features = images
            for conv in stage.convs(0):
                features = conv(features, False)
            features = F.max_pool2d(features, 2)
            for conv in stage.convs(1):
                features = conv(features, False)
            torch.testing.assert_close(net(images)[k], stage.exit(features))


def test_the_whole_takes_over_what_columns_began_before_the_first_join() -> None:
    net = FractalNetConfig(**SMALL).build()
    staged, direct = staged_macs(net).at_exit, direct_macs(net).at_exit
    first, further = 9 * 3 * 4 * 64, 9 * 4 * 4 * 64  # convolutions of the first block
    assert staged[-2] == sum(direct[:-1])
    assert staged[-1] - staged[-2] == direct[-1] - (3 * first + further)


def test_twenty_layers_have_the_parameters_of_the_papers_description() -> None:
    widths = (64, 128, 256, 512, 512)
    convs = sum(3 * 9 * a * b + 4 * 9 * b * b for a, b in zip((3, *widths), widths, strict=False))
    begun = 4  # of the first block, which have but one norm
    norms, linear = sum(2 * 7 * 2 * width for width in widths) - begun * 2 * 64, 4 * (512 * 10 + 10)
    with shapes_only():
        assert parameters(VARIANTS["fractalnet-cifar-20"].build()) == convs + norms + linear
    assert round(convs / 1e6, 1) == 33.7


def test_dropout_rises_from_block_to_block() -> None:
    config = VARIANTS["fractalnet-cifar-20"]
    assert [config.dropout_of(block) for block in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_the_inference_form_says_the_same_without_norms(shake: Callable[[nn.Module], None]) -> None:
    net = built(shake, dropout=0.3)
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        fused = net.fused()
        torch.testing.assert_close(fused(images), net(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in fused.modules())


def test_drop_path_gives_the_mean_of_what_is_left_and_leaves_something() -> None:
    given = [torch.full((1,), float(2**number)) for number in range(3)]
    means = {(1 + 2 + 4) / 3, (1 + 2) / 2, (1 + 4) / 2, (2 + 4) / 2, 1.0, 2.0, 4.0}
    join = Join(0.4)
    torch.manual_seed(0)
    seen = {round(float(join(given)), 5) for _ in range(400)}
    assert seen == {round(mean, 5) for mean in means}
    torch.manual_seed(0)
    alone = [float(Join(0.999)(given)) for _ in range(300)]
    assert set(alone) == {1.0, 2.0, 4.0}
    assert float(join.eval()(given)) == pytest.approx(7 / 3)


def test_as_many_inputs_are_left_out_as_the_rate_says() -> None:
    torch.manual_seed(0)
    join = Join(0.15)
    first, second = torch.tensor([0.0]), torch.tensor([1.0])
    found = [float(join([first, second])) for _ in range(4000)]
    both = sum(one == 0.5 for one in found) / len(found)
    assert both == pytest.approx(0.85**2, abs=0.02)


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_impossible_networks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FractalNetConfig(**(SMALL | changes))
    assert str(caught.value) == message


def test_a_column_has_other_norms_alone_than_among_others(shake: Callable[[nn.Module], None]) -> None:
    net = built(shake)
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        before = net(images)
        for module in net.modules():
            if isinstance(module, FractalConv) and module.together is not None:
                module.together.reset_parameters()
        after = net(images)
    torch.testing.assert_close(after[:-1], before[:-1], rtol=0, atol=0)
    assert not torch.allclose(after[-1], before[-1])
