"""The page behind the reverse proxies of docs/page.md, with the printed configs, in a browser.

The test replaces only the ports and the path of the certificate.
"""

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsing import browsing, comes_true
from certificates import Authority, Pair
from documents import blocks
from once import mostly_once
from ports import free_port
from processes import Running, running
from rig import START_MS, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.model import Fix

NAME = "van-07.example.com"
TOKEN = "a-token-of-24-characters"


def require(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if found is None:
        pytest.skip(f"needs Debian's {program}")
    return found


def as_printed(language: str, pair: Pair, port: int, page_port: int) -> str:
    (text,) = blocks("page.md", language)
    for printed, ours in (
        ("/etc/ssl/van-07.pem", str(pair.cert)),
        ("/etc/ssl/van-07.key", str(pair.key)),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("127.0.0.1:8077", f"127.0.0.1:{page_port}"),
    ):
        text = text.replace(printed, ours)
    return text


@contextmanager
def nginx(folder: Path, pair: Pair, page_port: int) -> Iterator[int]:
    program, port = require("nginx"), free_port()
    site = as_printed("nginx", pair, port, page_port)
    config = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; master_process off;"
        f" user root; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{site}\n}}\n"
    )
    with running(program, "-c", str(config), "-p", str(folder)) as proxy:
        answers(proxy, port)
        yield port
        proxy.end()


@contextmanager
def caddy(folder: Path, pair: Pair, page_port: int) -> Iterator[int]:
    program, port = require("caddy"), free_port()
    site = as_printed("caddy", pair, port, page_port)
    config = folder / "Caddyfile"
    config.write_text(
        f"{{\n\tadmin off\n\thttps_port {port}\n\thttp_port {free_port()}\n"
        f"\tauto_https disable_redirects\n\tskip_install_trust\n}}\n{site}\n"
    )
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with running(
        program, "run", "--config", str(config), "--adapter", "caddyfile", env=home
    ) as proxy:
        answers(proxy, port)
        yield port
        proxy.end()


def answers(proxy: Running, port: int) -> None:
    for _ in range(3000):
        assert proxy.process.poll() is None, proxy.text()
        try:
            socket.create_connection(("127.0.0.1", port), 60).close()
        except ConnectionRefusedError:
            with socket.socket() as pause:  # used as a timer: nothing connects
                pause.settimeout(0.02)
                pause.bind(("127.0.0.1", 0))
                pause.listen()
                try:
                    pause.accept()
                except TimeoutError:
                    continue
        else:
            return
    raise AssertionError(proxy.text())


@pytest.mark.parametrize("proxy", mostly_once([nginx, caddy], 1))
def test_the_printed_recipe_carries_login_actions_events_and_exports(
    tmp_path: Path, proxy: Callable[[Path, Pair, int], Iterator[int]]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with AckQueue(tmp_path / "queue.db") as queue:
        for number in range(3):
            queue.put(Fix(START_MS + 1000 * number, 48_117_300_000, 11_516_667_000), "van-07")
        batch = queue.lease(3)
        assert batch
        queue.ack(batch, rejected=dict.fromkeys((1, 2, 3), "400: lat out of range"))
    page_port = free_port()
    page = {
        "listen": f"127.0.0.1:{page_port}",
        "names": [NAME],
        "token_file": str(tmp_path / "token"),
    }
    pair = Authority(tmp_path).sign("van-07", f"DNS:{NAME}")
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        config = write_config(tmp_path, "/dev/none", endpoint.url, page=page)
        with started(config) as daemon:
            daemon.wait_for_line("the page is at")
            with proxy(tmp_path, pair, page_port) as port:  # type: ignore[attr-defined]
                # nginx and Caddy listen on their own ports; the browser uses the usual one.
                env = {"PAGE_TOKEN": TOKEN, "PAGE_PROXY": f"127.0.0.1:{port}"}
                with browsing("proxied", f"https://{NAME}/van-07/", env) as browser:
                    comes_true(browser)
        assert endpoint.count() == 2
