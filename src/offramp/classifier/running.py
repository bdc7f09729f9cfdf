"""Which runtime computes for a classifier."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from offramp.engine.choose import choose
from offramp.engine.opening import AUTO, AnyRuntime, Subject, open_runtime
from offramp.errors import ArtifactError
from offramp.measure.machine import fingerprint
from offramp.nets.base import MultiExitNet
from offramp_runtime.checks import check_threads
from offramp_runtime.precision import Precision, check_precision


class Running:
    """The network itself, until a runtime is chosen; opened anew when the weights have changed since.

    Args:
        net: whose stages are run.
        digest: of its weights as they are stored.
    """

    def __init__(self, net: MultiExitNet, digest: Callable[[], str]) -> None:
        self._net = net
        self._digest = digest
        self.name: str | None = None
        """Of the runtime; None for the network itself."""
        self.precision: Precision = "fp32"
        self.int8_graph: Path | None = None
        """The quantised graph, where there is one."""
        self._known_graph: tuple[object, str] = (None, "")
        self._threads: int | None = None
        self._opened: tuple[str, AnyRuntime] | None = None

    @property
    def runtime(self) -> AnyRuntime:
        """What computes."""
        if self.name is None:
            return self._net
        digest = self.digest_at(self.precision)
        if self._opened is None or self._opened[0] != digest:
            self._opened = digest, open_runtime(self.name, self.subject(self.precision))
        return self._opened[1]

    @property
    def device(self) -> torch.device:
        """Where images are taken."""
        return next(self._net.parameters()).device

    @property
    def threads(self) -> int:
        """That compute one call."""
        return self._threads or torch.get_num_threads()

    @property
    def machine(self) -> str:
        """Fingerprint of what measured milliseconds belong to: hardware, threads, PyTorch and runtime."""
        return fingerprint(self.device, f"{self.name or 'net'} {self.precision} {self.threads}")

    @property
    def described(self) -> str:
        """For people: runtime, precision and threads."""
        threads = f"{self.threads} thread{'s'[: self.threads > 1]}"
        return f"{self.name or 'network itself, eager'}, {self.precision}, {threads}"

    def use(self, name: str, precision: str, threads: int | None) -> None:
        """Run with this runtime from now on.

        Raises:
            ConfigError: no such runtime or precision, or it cannot be had here.
            MissingExtraError: a package it needs is not installed.
            ArtifactError: int8 of a model that has not been quantised.
        """
        check_threads(threads)
        before = self._threads
        self._threads = threads
        try:
            subject = self.subject(check_precision(precision))
            name, runtime = choose(subject) if name == AUTO else (name, open_runtime(name, subject))
        except Exception:
            self._threads = before
            raise
        self.name, self.precision, self._opened = name, subject.precision, (subject.digest, runtime)

    def subject(self, precision: Precision) -> Subject:
        """The network as it is now, to be run or exported at this precision."""
        return Subject(self._net, self.digest_at(precision), precision, self.threads, self.device, self.int8_graph)

    def digest_at(self, precision: Precision) -> str:
        """Of all that computes at this precision: the weights, and for int8 the quantised graph, where there is one.

        Raises:
            ArtifactError: the graph is gone.
        """
        weights = self._digest()
        if self._net.structure:
            weights = hashlib.sha256((weights + self._net.structure).encode()).hexdigest()
        if precision != "int8" or self.int8_graph is None:
            return weights
        return hashlib.sha256((weights + self._graph_digest(self.int8_graph)).encode()).hexdigest()

    def _graph_digest(self, path: Path) -> str:
        """Of a file that is not read again as long as it is the same."""
        try:
            about = path.stat()
            known = path, about.st_mtime_ns, about.st_size
            if self._known_graph[0] != known:
                self._known_graph = known, hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ArtifactError(
                f"{path}: cannot be read ({error.strerror}); quantise again: offramp calibrate MODEL --precision int8"
            ) from None
        return self._known_graph[1]
