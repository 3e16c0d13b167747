"""Run the controller: ``python -m mofang.control --home DIR``."""

from mofang.control.main import main

raise SystemExit(main())
