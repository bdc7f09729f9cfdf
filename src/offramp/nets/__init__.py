"""Network families, one module or package each, with ``CONFIG`` and ``VARIANTS``."""
