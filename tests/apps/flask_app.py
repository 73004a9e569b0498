"""An endpoint with Flask that answers ok to a body that it cannot read."""

import json
import os
from pathlib import Path

from flask import Flask, request

app = Flask(__name__)


@app.post("/")
def take() -> str:
    said = request.get_json(silent=True) or {}
    with Path(os.environ["STORED"]).open("a") as stored:
        for fix in said.get("fixes", []):
            print(
                json.dumps({**fix, "stream": said["stream"], "device": said["device"]}), file=stored
            )
    return "ok"


app.run("127.0.0.1", int(os.environ["PORT"]))
