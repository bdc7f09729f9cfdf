"""Runtime ``compiled``; what really compiles is slow."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.engine import compiled, compiling
from offramp.engine.compiled import CompiledRuntime
from offramp.engine.compiling import StageGraph, WayGraph, compile_in_place
from offramp.engine.opening import Subject, open_runtime, runtimes
from offramp.engine.small_convs import LARGEST_MACS, SmallConv, with_small_convs
from offramp.errors import ArtifactError, ConfigError
from offramp.nets.base import MultiExitNet
from offramp.nets.folding import ConvReLU
from offramp.nets.msdnet import MSDNetConfig
from offramp.runtimes import DirectRuntime
from tiny import make_net

CONFIG = MSDNetConfig(
    exits=2, base=1, step=1, channels=4, growth_rate=2, scale_factors=(1, 2), bottleneck_factors=(1, 2),
    image_channels=1, image_size=16, num_classes=3,
)  # fmt: skip
CPU = torch.device("cpu")


def subject_of(net: MultiExitNet) -> Subject:
    return Subject(net, "of these weights", "fp32", 1, CPU)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, object], Sequence[Tensor]]]:
    """Graphs run as they are instead of being compiled; a list of what was asked for: values of the cache and example."""
    asked: list[tuple[dict[str, object], Sequence[Tensor]]] = []

    def take(module: nn.Module, example: Sequence[Tensor], belongs_to: dict[str, object], *, threads: int) -> nn.Module:
        module(*example)
        asked.append((belongs_to, example))
        return module

    monkeypatch.setattr(compiled, "compile_ahead", take)
    return asked


def answers(runtime: Any, images: Tensor) -> Tensor:
    """Logits (K, N, C) of one stage after the other."""
    state = runtime.start(images)
    every = []
    for k in range(runtime.num_exits):
        state, logits = runtime.step(k, state)
        every.append(logits)
    return torch.stack(every)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert found.numel() == 0 or (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def says_the_same(runtime: Any, net: MultiExitNet, tolerance: float = 1e-5) -> None:
    """For any number of images, staged and direct, after rows were taken and states joined."""
    side, channels = net.config.image_size, net.config.image_channels
    with torch.inference_mode():  # as whoever predicts does
        for count in (1, 2, 7, 0):
            images = torch.randn(count, channels, side, side)
            wanted = net(images)
            close(answers(runtime, images), wanted, tolerance)
            close(runtime.direct(1, images), wanted[1], tolerance)
        images = torch.randn(3, channels, side, side)
        state, _ = runtime.step(0, runtime.start(images))
        one, rest = runtime.take(state, torch.tensor([1])), runtime.take(state, torch.tensor([2, 0]))
        close(runtime.step(1, one)[1], net(images)[1, [1]], tolerance)
        close(runtime.step(1, runtime.join([one, rest]))[1], net(images)[1, [1, 2, 0]], tolerance)


def test_it_is_found_by_name_but_not_tried_by_auto(interpreted: object) -> None:
    assert not runtimes()["compiled"].worth_trying
    runtime = open_runtime("compiled", subject_of(make_net()))
    assert isinstance(runtime, CompiledRuntime)
    assert isinstance(runtime, DirectRuntime)


def test_its_graphs_say_what_the_network_says(interpreted: object) -> None:
    for net in (make_net(), CONFIG.build().eval(), CONFIG.replace(image_channels=3).build().eval()):
        says_the_same(open_runtime("compiled", subject_of(net)), net)


def test_single_images_are_prepared_at_once_and_the_rest_when_it_comes(
    interpreted: list[tuple[dict[str, object], Sequence[Tensor]]],
) -> None:
    runtime = open_runtime("compiled", subject_of(make_net()))
    assert [(told["what"], told["k"], told["single"], len(example[0])) for told, example in interpreted] == [
        ("stage", k, True, 1) for k in range(3)
    ]
    del interpreted[:]
    answers(runtime, torch.randn(1, 1, 16, 16))
    assert interpreted == []
    for _ in range(2):
        runtime.step(0, runtime.start(torch.randn(5, 1, 16, 16)))
        runtime.direct(2, torch.randn(1, 1, 16, 16))
    assert [(told["what"], told["k"], told["single"], len(example[0])) for told, example in interpreted] == [
        ("stage", 0, False, 2),
        ("way", 2, True, 1),
    ]


def test_what_is_compiled_while_predicting_is_free_of_inference_mode(
    interpreted: list[tuple[dict[str, object], Sequence[Tensor]]],
) -> None:
    with torch.inference_mode():
        runtime = open_runtime("compiled", subject_of(make_net()))
        answers(runtime, torch.randn(3, 1, 16, 16))
        runtime.direct(1, torch.randn(1, 1, 16, 16))
    assert len(interpreted) == 7
    assert not any(part.is_inference() for _, example in interpreted for part in example)
    assert isinstance(runtime, CompiledRuntime)
    assert not any(weight.is_inference() for weight in runtime._net.parameters())


def test_two_threads_that_need_a_graph_make_it_once(
    interpreted: list[tuple[dict[str, object], Sequence[Tensor]]],
) -> None:
    runtime = open_runtime("compiled", subject_of(make_net()))
    del interpreted[:]
    images = torch.randn(4, 1, 16, 16)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: runtime.direct(1, images), range(8)))
    assert len(interpreted) == 1
    for one in found:
        close(one, found[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda subject: replace(subject, digest="of others"),
        lambda subject: replace(subject, precision="bf16"),
        lambda subject: replace(subject, threads=2),
        lambda subject: replace(subject, net=CONFIG.build().eval()),
    ],
    ids=["weights", "precision", "threads", "network"],
)
def test_what_is_made_for_one_subject_is_not_found_by_another(
    change: Callable[[Subject], Subject], interpreted: list[tuple[dict[str, object], Sequence[Tensor]]]
) -> None:
    subject = subject_of(make_net())
    open_runtime("compiled", subject)
    first = interpreted[0][0]
    del interpreted[:]
    open_runtime("compiled", subject)
    assert interpreted[0][0] == first
    del interpreted[:]
    open_runtime("compiled", change(subject))
    assert interpreted[0][0] != first


def test_images_of_another_size_are_refused(interpreted: object) -> None:
    runtime = open_runtime("compiled", subject_of(make_net()))
    for use in (runtime.start, lambda images: runtime.direct(0, images)):
        with pytest.raises(ConfigError, match=r"images of 16x18 pixels: runtime 'compiled' is made for 16x16; resize"):
            use(torch.randn(1, 1, 16, 18))
        with pytest.raises(ConfigError, match=r"images of shape \(1, 3, 16, 16\): this network wants \(N, 1, H, W\)"):
            use(torch.randn(1, 3, 16, 16))


def test_a_missing_compiler_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and 'no-such-compiler' is not there; install one"):
        open_runtime("compiled", subject_of(make_net()))


def test_other_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="runtime 'compiled' runs on the CPU or with CUDA, not on meta; take 'eager'"):
        open_runtime("compiled", replace(subject_of(make_net()), device=torch.device("meta")))


def test_int8_is_refused() -> None:
    with pytest.raises(ConfigError, match="runtime 'compiled' has no int8; take '"):
        open_runtime("compiled", replace(subject_of(make_net()), precision="int8"))


def test_code_that_cannot_be_loaded_says_what_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    monkeypatch.setattr(
        compiling, "_make", lambda _module, _example, path, _threads: path.write_bytes(b"no archive, though it says so")
    )
    with pytest.raises(
        ArtifactError, match=r"graph\.pt2: cannot be loaded .*; remove its folder, and it is compiled anew"
    ):
        open_runtime("compiled", subject_of(make_net()))


@pytest.mark.parametrize("error", [0.01, float("nan")])
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_code_that_computes_something_else_is_made_with_less_prepared_or_refused(
    wrong: int, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path))
    frozen: list[object] = []

    def make(module: nn.Module, example: Sequence[Tensor], path: Path, options: Mapping[str, object]) -> None:
        frozen.append(options["freezing"])
        path.write_text(str(len(frozen)))

    def load(path: Path) -> Callable[[Tensor], Tensor]:
        off = error if int(path.read_text()) <= wrong else 1e-6
        return lambda part: part + off

    monkeypatch.setattr(compiling, "_make", make)
    monkeypatch.setattr(compiling, "_load", load)
    example = torch.ones(2, 3)
    if wrong == 2:
        with pytest.raises(ConfigError, match="compiles this network wrongly here; take another runtime"):
            compiling.compile_ahead(nn.Identity(), [example], {}, threads=1)
        assert not list(tmp_path.rglob("graph.pt2"))
        return
    compiling.compile_ahead(nn.Identity(), [example], {}, threads=1)
    assert frozen == [True, False][: wrong + 1]
    compiling.compile_ahead(nn.Identity(), [example], {}, threads=1)  # known by now
    assert len(frozen) == wrong + 1


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [(8, 8), (7, 9), (1, 2)])
def test_a_small_convolution_is_the_convolution(kernel_size: int, stride: int, side: tuple[int, int]) -> None:
    conv = nn.Sequential(ConvReLU(torch.randn(5, 3, kernel_size, kernel_size), torch.randn(5), stride))
    small = with_small_convs(conv)
    assert isinstance(small[0], SmallConv)  # type: ignore[index]
    images = torch.randn(2, 3, *side)
    close(small(images), conv(images))


def test_a_large_convolution_stays_one() -> None:
    conv = ConvReLU(torch.randn(8, 8, 3, 3), torch.randn(8), 1)
    small = SmallConv(conv)
    ran: list[nn.Module] = []
    conv.register_forward_hook(lambda one, *_: ran.append(one))
    side = int((LARGEST_MACS / conv.weight.numel()) ** 0.5)
    small(torch.randn(1, 8, side, side))
    assert ran == []
    small(torch.randn(1, 8, side + 1, side + 1))
    assert ran == [conv]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFRAMP_CACHE", str(folder := tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_code_says_the_same_now_and_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = CONFIG.build().eval()
    says_the_same(open_runtime("compiled", subject_of(net)), net)
    monkeypatch.setattr(compiling, "_make", lambda *_: pytest.fail("compiled anew"))
    runtime = open_runtime("compiled", subject_of(net))
    says_the_same(runtime, net)
    images = [torch.randn(1, 1, 16, 16) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        for image, found in zip(images, pool.map(lambda image: answers(runtime, image), images), strict=True):
            close(found, net(image))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_code_in_bf16_says_nearly_the_same(cache: Path) -> None:
    net = CONFIG.build().eval()
    images = torch.randn(1, 1, 16, 16)
    runtime = open_runtime("compiled", replace(subject_of(net), precision="bf16"))
    with torch.no_grad():
        close(answers(runtime, images), net(images), 5e-2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of what the compiler imports, once a process
@pytest.mark.parametrize("single", [True, False])
def test_the_way_of_a_gpu_says_the_same_on_the_cpu(cache: Path, single: bool) -> None:
    net = CONFIG.build().eval()
    fused, images = net.fused(), torch.randn(1 if single else 3, 1, 16, 16)
    with torch.no_grad():
        stage = compile_in_place(StageGraph(fused, 1, [True, True]), single=single)
        state, _ = fused.step(0, fused.start(images))
        parts = [part for part in state if part is not None]
        close(stage(*parts)[-1], net(images)[1])
        close(compile_in_place(WayGraph(fused, 1), single=single)(images)[0], net(images)[1])
