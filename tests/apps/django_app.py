"""An endpoint with Django in one file, run by its development server."""

import json
import os
from pathlib import Path

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["127.0.0.1"])


def take(request: HttpRequest) -> JsonResponse:
    try:
        said = json.loads(request.body)
    except ValueError:
        return JsonResponse({"error": "not JSON"}, status=400)
    with Path(os.environ["STORED"]).open("a") as stored:
        for fix in said["fixes"]:
            print(
                json.dumps({**fix, "stream": said["stream"], "device": said["device"]}), file=stored
            )
    return JsonResponse({"received": len(said["fixes"])})


urlpatterns = [path("", take)]
execute_from_command_line(["", "runserver", "--noreload", f"127.0.0.1:{os.environ['PORT']}"])
