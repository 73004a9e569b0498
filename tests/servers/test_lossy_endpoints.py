"""Endpoints that say yes to what they cannot read, as web applications are often written.

A compressed body is an unreadable one to them, and an empty body is no fixes: 200, and all is lost.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers import free_port, program, wait_until_answers
from processes import running
from uploading import Uploading

from telemetry_agent.lab.endpoint import Endpoint

PHP = """<?php
$said = json_decode(file_get_contents('php://input'), true);
foreach ($said['fixes'] ?? [] as $fix) {
    file_put_contents(getenv('STORED'), $fix['seq'] . "\\n", FILE_APPEND);
}
echo 'ok';
"""
FLASK = """
import os
from flask import Flask, request
app = Flask(__name__)

@app.post('/')
def take():
    said = request.get_json(silent=True) or {}
    with open(os.environ['STORED'], 'a') as stored:
        for fix in said.get('fixes', []):
            print(fix['seq'], file=stored)
    return 'ok'

app.run('127.0.0.1', int(os.environ['PORT']))
"""
NODE = """
const fs = require('fs');
require('http').createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    let said = {};
    try { said = JSON.parse(Buffer.concat(parts)); } catch { /* not for us */ }
    for (const fix of said.fixes ?? []) fs.appendFileSync(process.env.STORED, `${fix.seq}\\n`);
    response.end('ok');
  });
}).listen(process.env.PORT, '127.0.0.1');
"""


@contextlib.contextmanager
def php(folder: Path, port: int) -> Iterator[None]:
    (folder / "index.php").write_text(PHP)
    command = (program("php"), "-d", "display_errors=0", "-S", f"127.0.0.1:{port}")
    with running(*command, "-t", str(folder), env={"STORED": str(folder / "stored")}):
        yield


@contextlib.contextmanager
def flask(folder: Path, port: int) -> Iterator[None]:
    pytest.importorskip("flask")
    env = {"PORT": str(port), "STORED": str(folder / "stored")}
    with running(sys.executable, "-c", FLASK, env=env):
        yield


@contextlib.contextmanager
def node(folder: Path, port: int) -> Iterator[None]:
    env = {"PORT": str(port), "STORED": str(folder / "stored")}
    with running(program("node"), "-e", NODE, env=env):
        yield


@pytest.mark.parametrize("server", [php, flask, node])
def test_what_is_acknowledged_is_stored(
    server: Callable[[Path, int], contextlib.AbstractContextManager[None]], tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "stored").touch()
    with server(tmp_path, port):
        wait_until_answers(port)
        uploading = Uploading(tmp_path, f"http://127.0.0.1:{port}/", "native")
        uploading.put(500)
        assert uploading.work() is None
        stored = [int(line) for line in (tmp_path / "stored").read_text().split()]
        assert sorted(stored) == list(range(1, 501))
        assert uploading.counts == (0, 0, 500, 0)
        uploading.close()


def test_the_reference_endpoint_earns_gzip_with_its_first_answer(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint:
        uploading = Uploading(tmp_path, endpoint.url, "native")
        uploading.put(500)
        assert uploading.work() is None
        sent = uploading.uploader.status().sent_bytes
        assert endpoint.count() == 500
        uploading.close()
    # 64 fixes plain, the rest compressed: a plain fix takes more than 60 bytes.
    assert sent < 64 * 120 + 436 * 40
