"""Process settings from the environment."""

from pathlib import Path

import pytest

from experiments.errors import Invalid
from server.settings import Settings, from_env, unknown


def test_an_empty_environment_gives_the_defaults() -> None:
    assert from_env({}) == Settings()
    assert from_env({"RATCHET_PORT": ""}) == Settings()


def test_the_database_lies_in_the_data_directory() -> None:
    settings = from_env({"RATCHET_DATA": "/srv/ratchet"})
    assert settings.database_url == "sqlite:////srv/ratchet/ratchet.db"
    assert settings.sqlite_path == Path("/srv/ratchet/ratchet.db")


@pytest.mark.parametrize(
    ("written", "micros"), [("1", 1_000_000), ("0.5", 500_000), ("500ms", 500_000), ("1m", 60_000_000)]
)
def test_a_tick_is_seconds_or_a_duration(written: str, micros: int) -> None:
    assert from_env({"RATCHET_TICK": written}).tick == micros


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("RATCHET_PORT", "80800", "a whole number from 0"),
        ("RATCHET_PORT", "http", "is not a port"),
        ("RATCHET_TICK", "soon", "is not a duration"),
        ("RATCHET_TICK", "1ms", "from 100ms to 1h"),
        ("RATCHET_LOG_LEVEL", "inf", "did you mean 'info'?"),
        ("RATCHET_DATABASE_URL", "postgres://host/db", "write postgresql+psycopg:// in its place"),
        ("RATCHET_DATABASE_URL", "mysql://host/db", "allowed: sqlite:///PATH"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_allowed(name: str, written: str, said: str) -> None:
    with pytest.raises(Invalid, match=name) as caught:
        from_env({name: written})
    (fault,) = caught.value.faults
    assert fault.pointer == name
    assert said in fault.message


def test_every_wrong_variable_is_listed() -> None:
    with pytest.raises(Invalid) as caught:
        from_env({"RATCHET_PORT": "x", "RATCHET_TICK": "y"})
    assert [fault.pointer for fault in caught.value.faults] == ["RATCHET_PORT", "RATCHET_TICK"]


def test_what_kubernetes_says_about_a_service_is_not_taken_for_a_port() -> None:
    assert from_env({"RATCHET_PORT": "tcp://10.0.0.1:80"}).port == 8000


def test_a_password_is_never_shown() -> None:
    settings = from_env({"RATCHET_DATABASE_URL": "postgresql+psycopg://me:secret@host/db"})
    assert settings.database == "postgresql+psycopg://me:***@host/db"


def test_a_slip_in_a_variable_s_name_is_pointed_out() -> None:
    assert unknown({"RATCHET_TIK": "1", "RATCHET_URL": "x", "PATH": ""})[0].startswith(
        "RATCHET_TIK is not a setting of Ratchet; did you mean 'RATCHET_TICK'?"
    )
