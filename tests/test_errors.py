"""An error keeps its message and remedy across a process or a socket."""

import pickle

from telemetry_agent.errors import Advice, AgentError, StorageError


def test_an_error_is_its_message_then_its_remedy() -> None:
    error = StorageError("the queue /q does not exist", "nothing was recorded yet")
    assert (error.message, error.remedy) == (
        "the queue /q does not exist",
        "nothing was recorded yet",
    )
    assert str(error) == "the queue /q does not exist: nothing was recorded yet"
    assert str(AgentError("it broke")) == "it broke"
    assert str(Advice("no data from /dev/x")) == "no data from /dev/x"


def test_an_error_of_another_process_is_the_same() -> None:
    error = pickle.loads(pickle.dumps(StorageError("a: b", "c: d")))
    assert (type(error), error.message, error.remedy) == (StorageError, "a: b", "c: d")
