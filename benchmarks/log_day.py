"""What the log of a day says: a fix a second, and four outages.

::

    python benchmarks/log_day.py

It is the day of ``tests/daemon/test_day.py``, which uses a fix each 30 s: the endpoint is away for
an hour, answers 503, takes fixes without an answer, and is away for six hours. The parts are real,
and their clock is simulated, so the day takes about a minute.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from daemon.test_day import DAY_S, live_a_day


class Counting(logging.Handler):
    """Prints each line, and counts them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        self.count += 1
        print(f"{record.levelname.lower()}: {record.getMessage()}")


def main() -> None:
    """Simulate the day."""
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
