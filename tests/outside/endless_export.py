"""The commands; an export writes its beginning, reports that, and waits for an interrupt."""

import itertools
import os
import threading
from collections.abc import Generator
from contextlib import closing
from typing import Any

from telemetry_agent.cli import export, main

ask_or_read = export.ask_or_read  # type: ignore[attr-defined]


def begin(*asked: Any) -> Generator[dict[str, Any], None, None]:
    with closing(ask_or_read(*asked)) as answers:
        yield from itertools.islice(answers, 20)
        os.write(1, b"begun\n")
        threading.Event().wait()


export.ask_or_read = begin  # type: ignore[assignment, attr-defined]
main()
