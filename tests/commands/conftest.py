"""What tests of several commands use."""

import pytest
from helpers.runs import contents


@pytest.fixture
def fill(small_disk):
    """Leaves no room at all; gives back what is there."""

    def _fill() -> dict[str, bytes]:
        before = contents(small_disk)
        with (small_disk / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        return before

    return _fill
