"""What the URL shows about the server behind a format."""

import pytest
from upload.upload_parts import batch_of
from uploading import FIX

from telemetry_agent.model import Answer, Deferred, Delivered, Held
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.interfaces import FormatName


@pytest.mark.parametrize("url", ["http://x/api/webhook/0123?u=jane", "https://hooks.nabu.casa/gA"])
@pytest.mark.parametrize("name", ["gpslogger", "osmand", "owntracks"])
def test_home_assistant_says_nothing_to_a_webhook_that_it_does_not_know(
    name: FormatName, url: str
) -> None:
    """It answers 200 with an empty body, also when its own code fails."""
    batch = batch_of(FIX)
    read = choose(name, url).read
    said = read(Answer(200, {}, b"", verified_tls=False), batch)
    assert isinstance(said, Deferred)
    assert "Home Assistant does not know the webhook" in said.reason
    # OwnTracks' webhook also answers [] to a request that it cannot read.
    other = read(Answer(200, {}, b"[]", verified_tls=False), batch)
    assert isinstance(other, Delivered) is (name == "owntracks")
    word = b"[]" if name == "owntracks" else b"Setting location for van07"
    assert isinstance(read(Answer(200, {}, word, verified_tls=False), batch), Delivered)
    assert isinstance(read(Answer(401, {}, b"", verified_tls=False), batch), Held)


def test_a_webhook_of_the_users_own_answers_with_an_empty_body() -> None:
    read = choose("native", "http://x/api/webhook/0123").read
    assert isinstance(read(Answer(200, {}, b"", verified_tls=False), batch_of(FIX)), Delivered)
