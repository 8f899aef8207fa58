"""`python -m monitor` is the `monitor` command, and the console script begins here too."""

from __future__ import annotations

import gc
import sys


def run() -> None:
    """Run the command. Loading it takes most of a second, so Ctrl-C must be met before it is loaded."""
    try:
        gc.disable()  # what is loaded stays: looking for garbage in it takes a fifteenth of the start
        from monitor.cli.main import run as command  # noqa: PLC0415  # see above

        gc.enable()
        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
