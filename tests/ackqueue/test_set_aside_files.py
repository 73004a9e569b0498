"""Files are set aside under the right names, even if a power cut interrupts it."""

from pathlib import Path

import pytest

from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.ackqueue.recovery.set_aside_files import (
    delete_kept,
    finish,
    left_at_rest,
    move_away,
    next_to_wait,
    of_kind,
    put_by,
    retire,
    waiting,
)
from telemetry_agent.errors import StorageError


def make(folder: Path, *names: str) -> Path:
    """Make files that contain their original names. Return the path of the queue."""
    for name in names:
        (folder / name).write_text(name)
    return folder / "queue.db"


def there(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


SET_ASIDE = {"queue.db.damaged-1": "queue.db", "queue.db.damaged-1-wal": "queue.db-wal"}


@pytest.mark.parametrize(
    ("renamed", "left"),
    [(0, {"queue.db": "queue.db", "queue.db-wal": "queue.db-wal"}), (1, SET_ASIDE), (2, SET_ASIDE)],
)
def test_a_move_that_was_cut_off_is_completed_whole_or_not_at_all(
    tmp_path: Path, renamed: int, left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = make(tmp_path, "queue.db", "queue.db-wal"), 0

    def rename(old: Path, new: Path) -> None:
        nonlocal done
        if done == renamed:
            raise OSError(5, "Input/output error")
        done += 1
        old.rename(new)

    with monkeypatch.context() as patch:
        patch.setattr(set_aside_files, "rename", rename)
        if renamed < 2:
            with pytest.raises(StorageError, match=r"cannot rename .*queue\.db: Input/output"):
                move_away(path)
        else:
            move_away(path)
    finish(path)
    assert there(tmp_path) == left


def test_a_log_without_its_file_is_set_aside_and_is_not_taken_for_half_a_move(
    tmp_path: Path,
) -> None:
    path = make(tmp_path, "queue.db-wal")
    assert left_at_rest(path) == [tmp_path / "queue.db-wal"]
    assert move_away(path) == tmp_path / "queue.db.damaged-1"
    make(tmp_path, "queue.db", "queue.db-wal")
    finish(path)
    assert there(tmp_path) == {
        "queue.db": "queue.db",
        "queue.db-wal": "queue.db-wal",
        "queue.db.damaged-1": "",
        "queue.db.damaged-1-wal": "queue.db-wal",
    }


def test_a_file_that_went_before_its_log_is_followed_by_it(tmp_path: Path) -> None:
    """A power cut may keep the second of two renames but not the first."""
    finish(make(tmp_path, "queue.db-wal", "queue.db.damaged-1"))
    assert there(tmp_path) == {
        "queue.db.damaged-1": "queue.db.damaged-1",
        "queue.db.damaged-1-wal": "queue.db-wal",
    }


def test_the_index_goes_with_its_log(tmp_path: Path) -> None:
    move_away(make(tmp_path, "queue.db", "queue.db-wal", "queue.db-shm"))
    assert there(tmp_path) == SET_ASIDE | {"queue.db.damaged-1-shm": "queue.db-shm"}


def test_a_queue_with_its_file_has_nothing_left_behind(tmp_path: Path) -> None:
    assert left_at_rest(make(tmp_path, "queue.db", "queue.db-wal", "queue.db.damaged-1")) == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "queue.db"
    with pytest.raises(StorageError, match=r"cannot read the folder .*gone: No such file"):
        waiting(path)
    assert left_at_rest(path) == []


def test_the_new_queue_stays_where_it_is_beside_files_that_wait(tmp_path: Path) -> None:
    names = ("queue.db", "queue.db-wal", "queue.db.damaged-1")
    finish(make(tmp_path, *names))
    assert there(tmp_path) == {name: name for name in names}


def test_the_new_queue_stays_where_it_is_beside_a_log_whose_file_was_deleted(
    tmp_path: Path,
) -> None:
    names = ("queue.db", "queue.db-wal", "queue.db.damaged-1-wal")
    finish(make(tmp_path, *names))
    assert there(tmp_path) == {name: name for name in names}


def test_an_index_alone_does_not_wait(tmp_path: Path) -> None:
    assert waiting(make(tmp_path, "queue.db.damaged-1-shm")) == []


def test_the_numbers_of_all_kinds_ascend_and_the_oldest_comes_first(tmp_path: Path) -> None:
    path = make(tmp_path, *(f"queue.db.damaged-{n}" for n in (10, 9, 2, "x")), "other.damaged-99")
    assert [file.name for file in waiting(path)] == [f"queue.db.damaged-{n}" for n in (2, 9, 10)]
    make(tmp_path, "queue.db.kept-11", "queue.db.foreign-12-wal")
    assert next_to_wait(path) == tmp_path / "queue.db.damaged-13"


@pytest.mark.parametrize("kind", ["kept", "foreign", None])
def test_what_was_carried_over_is_kept_under_its_number_or_deleted(
    tmp_path: Path, kind: set_aside_files.Kind | None
) -> None:
    names = [f"queue.db.damaged-7{suffix}" for suffix in ("", "-wal", "-shm")]
    path = make(tmp_path, "queue.db", *names)
    retire(path, tmp_path / names[0], kind)
    left = {f"queue.db.{kind}-7{suffix}": f"queue.db.damaged-7{suffix}" for suffix in ("", "-wal")}
    assert there(tmp_path) == {"queue.db": "queue.db"} | (left if kind else {})


def test_of_those_for_a_person_the_last_is_kept(tmp_path: Path) -> None:
    path = make(tmp_path, *(f"queue.db.kept-{n}" for n in (1, 2, 10)), "queue.db.kept-1-wal")
    assert delete_kept(path, keep=1)
    assert of_kind(path, "kept") == [tmp_path / "queue.db.kept-10"]
    assert not delete_kept(path, keep=1)
    assert delete_kept(path)
    assert there(tmp_path) == {}


def test_what_others_put_in_the_place_is_renamed_and_not_deleted(tmp_path: Path) -> None:
    path = make(tmp_path, "queue.db", "queue.db-wal")
    assert put_by(path, [tmp_path / "queue.db-wal", path]) == tmp_path / "queue.db.foreign-1"
    assert there(tmp_path) == {
        "queue.db.foreign-1": "queue.db",
        "queue.db.foreign-1-wal": "queue.db-wal",
    }
