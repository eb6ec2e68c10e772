"""Where a store is, and what is said of a target that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from _postgres import PostgresServer
from configurable_agents.config.schema import StorageConfig
from configurable_agents.errors import StorageError
from configurable_agents.storage.factory import create_storage_backend, store_target
from configurable_agents.storage.targets import Target

SECRET = "s3cr3t-w0rd"


def test_the_command_line_comes_before_the_environment_before_the_file_before_the_default() -> None:
    config = StorageConfig(path="file.db")
    environ = {"CONFIGURABLE_AGENTS_STORE": "env.db"}
    assert store_target("asked.db", environ, config) == "asked.db"
    assert store_target(None, environ, config) == "env.db"
    assert store_target(None, {"CONFIGURABLE_AGENTS_STORE": ""}, config) == config
    assert store_target(None, {}, None) == "./workflows.db"


def test_without_a_target_the_environment_says_where(tmp_path: Path) -> None:
    path = tmp_path / "from-environment.db"
    create_storage_backend(environ={"CONFIGURABLE_AGENTS_STORE": str(path)}).close()
    assert path.exists()


def test_a_path_a_url_and_a_storage_block_name_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a b.db"
    url = f"sqlite:///{tmp_path}/a%20b.db"
    targets: list[Target] = [path, str(path), url, StorageConfig(path=str(path)), StorageConfig(backend=url)]
    for target in targets:
        store = create_storage_backend(target)
        assert store.location == str(path)
        store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["a b.db"]


def test_a_url_with_three_slashes_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_storage_backend("sqlite:///sub/relative.db").close()
    assert (tmp_path / "sub" / "relative.db").exists()


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    create_storage_backend(StorageConfig(path="~/mine.db")).close()
    assert (tmp_path / "mine.db").exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "the store's path is empty"),
        ("sqlite://", "a store must be a file"),
        ("sqlite:///:memory:", "a store must be a file"),
        (f"mysql://me:{SECRET}@host/db", "a store cannot be kept in 'mysql'"),
        (StorageConfig(backend="mongodb"), "unknown storage backend 'mongodb'"),
        (StorageConfig(backend="postgresql"), "needs a database URL as its path"),
        (f"postgresql://me:{SECRET}@host:{SECRET}/db", "the store's URL cannot be read"),
    ],
)
def test_a_target_that_is_none_is_an_error_with_a_remedy(target: str | StorageConfig, said: str) -> None:
    with pytest.raises(StorageError, match=said) as caught:
        create_storage_backend(target)
    assert_no_secret_in(caught.value)


@pytest.mark.postgres
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_a_server_is_named_by_url_without_showing_its_password(postgres_server: PostgresServer, scheme: str) -> None:
    database = postgres_server.new_database().split("@/")[1]
    url = f"{scheme}://postgres:{SECRET}@/{database}&sslpassword={SECRET}"
    for target in (url, StorageConfig(backend="postgresql", path=url), StorageConfig(backend=url)):
        store = create_storage_backend(target)
        store.close()
        assert SECRET not in store.location
        assert "postgres@" in store.location


@pytest.mark.postgres
def test_a_server_that_cannot_be_reached_is_an_error_without_the_password(postgres_server: PostgresServer) -> None:
    absent = postgres_server.url("absent").replace("postgres@", f"postgres:{SECRET}@")
    for url in (f"postgresql://me:{SECRET}@127.0.0.1:1/db", absent):
        with pytest.raises(StorageError, match="the store at postgresql://") as caught:
            create_storage_backend(url)
        assert_no_secret_in(caught.value)


def assert_no_secret_in(error: BaseException) -> None:
    shown: BaseException | None = error
    while shown is not None:
        assert SECRET not in str(shown)
        shown = shown.__cause__
