"""What a lock leaves behind."""

from kdlightning.accounting import DirectoryLock


def test_a_launch_that_made_nothing_leaves_no_directory(tmp_path):
    (tmp_path / "runs").mkdir()
    for content, left in ((None, []), ("result", ["a", "a/b", "a/b/.lock", "a/b/result"])):
        lock = DirectoryLock(tmp_path / "runs/a/b")
        lock.acquire()
        if content:
            (tmp_path / "runs/a/b" / content).touch()
        lock.release()
        assert sorted(str(path.relative_to(tmp_path / "runs")) for path in (tmp_path / "runs").rglob("*")) == left


def test_a_directory_that_was_there_stays(tmp_path):
    lock = DirectoryLock(tmp_path / "set")
    (tmp_path / "set").mkdir()
    lock.acquire()
    lock.release()
    assert (tmp_path / "set").is_dir()
