"""The messages of commands while the config is wrong."""

from pathlib import Path

from processes import run_agent
from rig import record_backlog, started, write_config


def test_status_at_rest_names_the_fault_and_the_queue(tmp_path: Path) -> None:
    record_backlog(tmp_path, 3)
    config = tmp_path / "config.toml"
    config.write_text(config.read_text() + "[upload2]\n")
    result = run_agent("status", "--config", str(config))
    assert result.returncode == 0
    assert "queue:     3 pending" in result.stdout
    (said,) = result.stderr.splitlines()
    assert said.startswith("telemetry-agent: config: upload2 is not a key of the config")
    assert said.endswith(f"; this is its queue, {tmp_path}/queue.db")


def test_status_does_not_show_the_default_queue_for_a_wrong_path(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    of_a_file = "must be the path of a file, such as "
    of_a_file += "/var/lib/telemetry-agent/queue.db: without NUL, and not below ~"
    for queue, said in (
        ("[queue]\npath = 3", f"queue.path = 3: {of_a_file}"),
        ("[queue]\npath = ''", f"queue.path = '': {of_a_file}"),
        ("[queue]\npath = '/'", f"queue.path = '/': {of_a_file}"),
        ("[queue]\npath = '..'", f"queue.path = '..': {of_a_file}"),
        ("queue = 3", "queue must be a table, [queue]"),
    ):
        config.write_text(queue)
        result = run_agent("status", "--config", str(config))
        assert (result.returncode, result.stdout) == (78, "")
        assert result.stderr == f"telemetry-agent: config: {said}\n"


def test_a_wrong_path_in_the_environment_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    for path in ("/", ".", "/tmp/.."):
        for command in (["status"], ["queue", "stats"], ["run"], ["doctor"]):
            variable = {"TELEMETRY_AGENT_QUEUE__PATH": path}
            result = run_agent(*command, "--config", str(config), env=variable)
            said = f"config: queue.path = {path!r}: must be the path of a file"
            assert said in result.stdout + result.stderr
            assert "Traceback" not in result.stderr
            assert result.returncode == (1 if command == ["doctor"] else 78)


def test_the_answer_of_the_service_is_named_as_such(tmp_path: Path) -> None:
    service = {"RUNTIME_DIRECTORY": str(tmp_path)}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with started(config, service):
        for text, fault in (("device = ", "is not valid TOML: "), ("", "is empty: ")):
            config.write_text(text)  # the second one seems to name the default queue
            for command in (["status"], ["status", "--json"], ["queue", "stats"]):
                result = run_agent(*command, "--config", str(config), env=service)
                assert result.returncode == 0
                assert "no agent runs" not in result.stdout
                assert '"running": false' not in result.stdout
                (said,) = result.stderr.splitlines()
                assert f"the config {config} {fault}" in said
                assert said.endswith("; this is the service, which may use another config")
