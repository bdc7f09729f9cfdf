"""Runtime ``compiled``: the network's stages as native code that PyTorch's compiler makes, once per machine."""

import os
import platform
import shutil
import threading
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from offramp import __version__
from offramp.engine.compiling import Graph, StageGraph, WayGraph, compile_ahead, compile_in_place
from offramp.engine.opening import RuntimeSpec, Subject
from offramp.engine.small_convs import with_small_convs
from offramp.errors import ConfigError, OfframpError
from offramp.measure.machine import fingerprint
from offramp.nets.base import MultiExitNet
from offramp.shapes import State


class CompiledRuntime:
    """One graph per stage for single images, made at once, and one for more of them, made when they first come.

    Making them takes minutes. On the CPU they are then kept in the cache, as libraries; on a GPU PyTorch keeps what it
    compiled. Graphs hold for the image size of the network. On the CPU a stage keeps Python's lock while it computes, so
    that other threads wait for its end.

    Args:
        net: any network; its weights are copied.
        precision: of weights and features, ``"fp32"`` or ``"bf16"``; logits are float32.
        device: where to compute.
        threads: that compute one call; part of the code that is made for a CPU.
        belongs_to: plain values that tell this network, its weights and precision from others in the cache.
    """

    def __init__(
        self,
        net: MultiExitNet,
        precision: str,
        device: torch.device,
        threads: int,
        belongs_to: Mapping[str, object],
    ) -> None:
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._net = _plainly_laid_out(net.fused().to(device, self._dtype))
        self._device, self._threads = device, threads
        self._belongs_to = dict(belongs_to)
        self._graphs: dict[tuple[str, int, bool], Graph] = {}
        self._compiling = threading.Lock()
        self._before = self._states()
        """Of two images, before each stage and behind the last."""
        for k in range(self.num_exits):
            self._graph("stage", k, single=True)

    @property
    def num_exits(self) -> int:
        """K."""
        return self._net.num_exits

    def start(self, images: Tensor) -> State:
        """State before stage 0, for normalised images (N, C, H, W) of the network's image size.

        Raises:
            ConfigError: images of another size.
        """
        return self._net.start(self._checked(images))

    @torch.no_grad()
    def step(self, k: int, state: State) -> tuple[State, Tensor]:
        """Run stage k; returns the next state and the logits (N, C) of exit k."""
        parts = [_channels_last(part) for part in state if part is not None]
        count = len(parts[0])
        if count == 0:  # compiled code wants at least one
            after, logits = self._net.step(k, state)
            return after, logits.float()
        *kept, logits = self._graph("stage", k, single=count == 1)(*parts)
        filled = iter(kept)
        return tuple(None if part is None else next(filled) for part in self._before[k + 1]), logits

    def take(self, state: State, rows: Tensor) -> State:
        """The state of the samples ``rows`` (indices, (M,)), in that order."""
        return self._net.take(state, rows)

    def join(self, states: Sequence[State]) -> State:
        """The states of several batches before the same stage, at least one, as that of one batch."""
        return self._net.join(states)

    @torch.no_grad()
    def direct(self, k: int, images: Tensor) -> Tensor:
        """Logits (N, C) of exit k, skipping earlier exits and whatever only they need.

        Raises:
            ConfigError: images of another size than the network's.
        """
        images = self._checked(images)
        if len(images) == 0:
            return self._net.direct(k, images).float()
        return self._graph("way", k, single=len(images) == 1)(images)[0]

    def _checked(self, images: Tensor) -> Tensor:
        side = self._net.config.image_size
        if images.ndim == 4 and tuple(images.shape[2:]) != (side, side):
            raise ConfigError(
                f"images of {images.shape[2]}x{images.shape[3]} pixels: runtime 'compiled' is made for {side}x{side}; "
                "resize them, or take runtime 'eager'"
            )
        return _channels_last(images.to(self._dtype))

    @torch.no_grad()
    def _states(self) -> list[State]:
        config = self._net.config
        side = config.image_size
        noise = torch.randn(2, config.image_channels, side, side, generator=torch.Generator().manual_seed(0))
        states = [self._net.start(self._checked(noise.to(self._device)))]
        for k in range(self.num_exits):
            states.append(self._net.step(k, states[-1])[0])
        return states

    def _graph(self, what: str, k: int, *, single: bool) -> Graph:
        """Compiled, now or at an earlier start, for one image or for any number above."""
        wanted = what, k, single
        graph = self._graphs.get(wanted)
        if graph is not None:
            return graph
        with self._compiling:
            if wanted not in self._graphs:
                self._graphs[wanted] = self._compile(what, k, single)
            return self._graphs[wanted]

    @torch.inference_mode(False)
    def _compile(self, what: str, k: int, single: bool) -> Graph:
        before = self._before[k if what == "stage" else 0]
        example = [_channels_last(part[:1] if single else part) for part in before if part is not None]
        filled = [part is not None for part in before]
        module: nn.Module = StageGraph(self._net, k, filled) if what == "stage" else WayGraph(self._net, k)
        if self._device.type != "cpu":
            return compile_in_place(module, single=single)
        # Products of matrices cost less to call, convolutions compute more per second.
        module = with_small_convs(module) if single else module
        belongs_to = self._belongs_to | {"what": what, "k": k, "single": single}
        return compile_ahead(module, example, belongs_to, threads=self._threads)


def _plainly_laid_out(net: MultiExitNet) -> MultiExitNet:
    """The network itself; the compiler orders weights as it wants, and mistakes one-channel ones in channels-last layout."""
    for weight in net.parameters():
        # Copied, since strides along an axis of one are left as they are otherwise.
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    return net


def _channels_last(part: Tensor) -> Tensor:
    """As the code expects it and does not check; itself where it is so already, as almost always."""
    if part.ndim != 4:
        return part.contiguous()
    part = part.contiguous(memory_format=torch.channels_last)
    # The stride along an axis of one means nothing, but the code reads by that of the example it was made with.
    return part.squeeze(1).unsqueeze(1) if part.shape[1] == 1 else part


@torch.inference_mode(False)  # whoever predicts is in it, and the exporter does not bear tensors made there
def _open(subject: Subject) -> CompiledRuntime:
    belongs_to = {
        "net": subject.net.config.to_json() | {"family": subject.net.config.family},
        "weights": subject.digest,
        "precision": subject.precision,
        "threads": subject.threads,
        "machine": fingerprint(subject.device),
        "offramp": __version__,
    }
    return CompiledRuntime(subject.net, subject.precision, subject.device, subject.threads, belongs_to)


def _why_not(subject: Subject) -> OfframpError | None:
    if subject.device.type not in ("cpu", "cuda"):
        return ConfigError(
            f"runtime 'compiled' runs on the CPU or with CUDA, not on {subject.device}; take 'eager' there"
        )
    # What PyTorch's compiler calls where nothing else is named.
    compiler = os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++")
    if subject.device.type == "cpu" and shutil.which(compiler) is None:
        return ConfigError(
            f"runtime 'compiled' needs a C++ compiler, and '{compiler}' is not there; install one (Debian: apt install g++) "
            "or name yours in the environment variable CXX"
        )
    return None


# Not for auto: the first start takes minutes.
RUNTIMES = {"compiled": RuntimeSpec(("fp32", "bf16"), _open, _why_not, worth_trying=False)}
