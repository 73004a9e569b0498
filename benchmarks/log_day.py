"""What the log of a day says: a fix a second, and four outages.

::

    python benchmarks/log_day.py

It is the day of ``tests/daemon/test_day.py``, where a fix each 30 s has to do: an endpoint that is
gone for an hour, answers 503, takes fixes without an answer, is gone for six hours. Real parts;
only their clock is made up, so the day takes about a minute.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from daemon.test_day import DAY_S, live_a_day


class Counting(logging.Handler):
    """Prints each line, and counts."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        self.count += 1
        print(f"{record.levelname.lower()}: {record.getMessage()}")


def main() -> None:
    """Live it."""
    argparse.ArgumentParser(description="What the log of a day says.").parse_args()
    lines = Counting()
    log = logging.getLogger("telemetry_agent")
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        live_a_day(Path(name), interval_s=1)
    print(f"{DAY_S:,} fixes, {lines.count} lines")


if __name__ == "__main__":
    main()
