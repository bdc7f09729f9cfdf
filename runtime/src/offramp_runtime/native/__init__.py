"""Runtime ``native``: the stages of a network as C that is made for it, and compiled for the CPU it runs on."""

from offramp_runtime.native.compiler import why_no_compiler as why_no_compiler
from offramp_runtime.native.compiler import why_not as why_not
from offramp_runtime.native.stages import NativeStages as NativeStages
from offramp_runtime.native.stages import open_stages as open_stages
