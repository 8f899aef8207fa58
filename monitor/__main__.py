"""`python -m monitor` is the `monitor` command, and the console script begins here too."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command. Loading it takes most of a second, so Ctrl-C must be met before it is loaded."""
    try:
        from monitor.cli.main import run as command  # noqa: PLC0415  # see above

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
