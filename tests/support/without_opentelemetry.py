"""Runs the program as if the extra `traces` was not installed."""

import sys
from typing import Any, cast

cast("dict[str, Any]", sys.modules)["opentelemetry"] = None

from service.__main__ import main  # noqa: E402 - after the import above was made impossible

main()
