"""Secrets are masked regardless of other threads."""

import sys
from threading import Event, Thread

import pytest

from telemetry_agent.model import Answer
from telemetry_agent.secrecy import MASK, masked, masked_url, secret_values, secrets_in_url
from telemetry_agent.upload.quoting import reason_of


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


SECRET = 'pass "w\\rd"  é/ü'


@pytest.mark.parametrize(
    "quoted",
    [
        SECRET,
        r"pass \"w\\rd\"  \u00e9/\u00fc",
        r"pass \"w\\rd\"  é/ü",
        r"pass \"w\\rd\"  \u00e9\/\u00fc",
    ],
)
def test_a_quoted_secret_is_masked_on_the_line_of_a_log(quoted: str) -> None:
    answer = Answer(401, {}, f'{{"error": "who is {quoted}?"}}'.encode(), verified_tls=False)
    assert masked(reason_of(answer), {SECRET}) == '401: {"error": "who is ***?"}'


def test_a_secret_across_the_end_of_what_is_quoted_is_masked() -> None:
    """The secret comes after many spaces, which a log does not show."""
    token = "a-tökén-of-one-server"
    for spaces in range(980, 1001):
        body = b" " * spaces + token.encode() + b"."
        assert "a-tö" not in masked(reason_of(Answer(401, {}, body, False)), {token})


def test_only_what_is_secret_is_masked() -> None:
    headers = {"Authorization": "Bearer abc", "X-Room": "kitchen 4"}
    assert secret_values(headers) == {"Bearer abc", "abc"}
    url = "https://example.com/?user=jane&key=a%2Fb&token=&p=x"
    assert secrets_in_url(url) == {"a%2Fb", "a/b", "x"}
    assert masked_url(url) == "https://example.com/?user=jane&key=***&token=***&p=***"
    assert masked("a cat", {"a", "cat"}) == "a cat"  # masking would hide the text, not the secret


def test_a_compressed_reason_is_not_quoted() -> None:
    answer = Answer(500, {"content-encoding": "gzip"}, b"\x1f\x8b\x08\x00", False)
    assert reason_of(answer) == "500 Internal Server Error"
