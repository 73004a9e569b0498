"""An endpoint with FastAPI, as in its tutorial."""

import json
import os
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Batch(BaseModel):
    stream: str
    device: str
    fixes: list[dict[str, Any]]


app = FastAPI()


@app.post("/")
def take(batch: Batch) -> dict[str, int]:
    with Path(os.environ["STORED"]).open("a") as stored:
        for fix in batch.fixes:
            print(json.dumps({"stream": batch.stream, "device": batch.device, **fix}), file=stored)
    return {"received": len(batch.fixes)}


uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
