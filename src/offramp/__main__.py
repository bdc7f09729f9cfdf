"""``python -m offramp``."""

from offramp.cli.main import main

raise SystemExit(main())
