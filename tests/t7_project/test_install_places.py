"""Directories that installing makes: only what is empty goes with the product again."""

import os
import pwd
from pathlib import Path

import pytest

import install

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(install, "USER", "nobody")
    return tmp_path / "cache"


def test_a_cache_is_the_worker_s_alone(cache: Path) -> None:
    install.make_cache(cache)
    status = cache.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (pwd.getpwnam("nobody").pw_uid, 0o700)


def test_one_that_is_there_stays_as_it_is(cache: Path) -> None:
    cache.mkdir(0o750)
    install.make_cache(cache)
    assert (cache.stat().st_uid, cache.stat().st_mode & 0o777) == (0, 0o750)


def test_an_empty_one_is_removed(cache: Path) -> None:
    install.make_cache(cache)
    install.remove_cache(cache)
    assert not cache.exists()
    install.remove_cache(cache)


def test_what_was_never_stored_is_not_removed(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install.make_cache(cache)
    (cache / "left").touch()
    install.remove_cache(cache)
    assert (cache / "left").exists()
    assert f"{cache} stays: there is something in it" in capsys.readouterr().out
