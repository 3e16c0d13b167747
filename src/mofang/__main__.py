"""Run the command line as ``python -m mofang``."""

from mofang.cli.main import main

raise SystemExit(main())
