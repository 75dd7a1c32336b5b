"""What a compiling process is given of its server's environment, and what it is not."""

from server.loop.children import environment


def test_the_keys_of_language_models_go_along_and_what_leads_to_a_database_does_not() -> None:
    given = environment(
        {
            "OPENAI_API_KEY": "sk-1",
            "OTHER_API_BASE": "https://models.example/v1",
            "RATCHET_API_KEY": "rk_1",
            "RATCHET_DATABASE_URL": "postgresql+psycopg://ratchet:secret@db/ratchet",
            "DATABASE_URL": "postgres://ratchet:secret@db/ratchet",
            "PGPASSWORD": "secret",
            "POSTGRES_PASSWORD": "secret",
            "APP_DSN": " postgresql+psycopg://ratchet:secret@db/ratchet",
        }
    )
    assert set(given) == {"OPENAI_API_KEY", "OTHER_API_BASE", "PYTHONPATH"}


def test_a_key_goes_along_by_whatever_name_the_definitions_have_for_it() -> None:
    held = {"RATCHET_MODEL_KEY": "sk-1", "PG_MODEL_KEY": "sk-2", "RATCHET_API_KEY": "rk_1"}
    assert set(environment(held, {"RATCHET_MODEL_KEY"})) == {"RATCHET_MODEL_KEY", "PYTHONPATH"}
