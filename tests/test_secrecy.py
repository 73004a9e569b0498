"""Secrets are masked whatever the other threads do."""

import sys
from threading import Event, Thread

from telemetry_agent.secrecy import MASK, masked


def test_a_secret_is_masked_while_another_thread_reads_secrets() -> None:
    interval_s = sys.getswitchinterval()
    secrets, over = {"a-token-of-one-server"}, Event()

    def read_secrets() -> None:
        number = 0
        while not over.is_set():
            number += 1
            secrets.add(f"renewed-token-{number}")
            if len(secrets) > 50:
                secrets.clear()
                secrets.add("a-token-of-one-server")

    thread = Thread(target=read_secrets)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(2000):
            masked("401: a-token-of-one-server", secrets)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval_s)
    assert masked("401: a-token-of-one-server", secrets) == f"401: {MASK}"
