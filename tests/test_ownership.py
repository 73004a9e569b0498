"""An object sets only its own fields; it changes another object by a call."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from once import SOURCE

PACKAGE = Path(__file__).parent.parent / "telemetry_agent"

# Fields that the interface of another library requires to be set.
OF_LIBRARIES = {
    "connection.text_factory",  # sqlite3
    "ctx.color",  # click
    "sys.excepthook",
    "sys.stderr",
    "threading.excepthook",
    "port.baudrate",  # pyserial
    "port.timeout",
    "app.router.redirect_slashes",  # starlette
    "tls.session",  # ssl
    "context.minimum_version",
    "context.post_handshake_auth",
    "context.verify_flags",
    "state.attempt_number",  # tenacity
}


def written(source: str) -> Iterator[str]:
    """The fields of other objects that a module assigns, such as ``queue.limit``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For):
            targets = [node.target]
        else:
            continue
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load):
                    owner = ast.unparse(part.value)
                    if owner not in {"self", "cls"}:
                        yield f"{owner}.{part.attr}"


@SOURCE
def test_no_module_writes_into_another_object() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in written(path.read_text())
        if name not in OF_LIBRARIES
    }
    assert found == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("self.a = other.b = 1", ["other.b"]),
        ("self.part.a += 1", ["self.part.a"]),
        ("x, other.a = 1, 2", ["other.a"]),
        ("for other.a in range(3): pass", ["other.a"]),
        ("del other.a", ["other.a"]),
        ("self.a = other.b; other.call(); other.c[0] = 1", []),
    ],
)
def test_such_a_write_is_found(source: str, names: list[str]) -> None:
    assert [*written(source)] == names
