"""What the tests of the interface share."""

from collections.abc import Iterator

import pytest

from tests.servers import DEFINITIONS, RunningServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One real server for the tests that need a socket; a test may have given it keys."""
    directory = tmp_path_factory.mktemp("server")
    definitions = directory / "ratchet.yaml"
    definitions.write_text(DEFINITIONS)
    with RunningServer(directory / "data", config=definitions) as running:
        yield running
