"""Published checkpoint formats, one file each: ``READERS``, and ``WRITERS`` where public code can load what is written."""

from offramp.nets.foreign._reading import Hints, read_any

__all__ = ["Hints", "read_any"]
