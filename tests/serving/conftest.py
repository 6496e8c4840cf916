"""What tests of serving share: a small model, and a server of it."""

from functools import partial

import pytest
from helpers.exports import lively, save
from helpers.serving import held, opened, served

LENGTH = 12


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """A Transformer whose outputs differ and end anywhere."""
    folder = tmp_path_factory.mktemp("model")
    model = lively(0)
    model.generation_config.max_new_tokens = LENGTH
    save(folder, model)
    return folder


@pytest.fixture(scope="package")
def opener(folder):
    """Loads it."""
    return partial(opened, folder)


@pytest.fixture(scope="package")
def client(opener):
    """Asks a server that all tests use."""
    with served(opener, partial(opener, generate_kwargs={"num_beams": 3})) as client:
        yield client


@pytest.fixture
def gated(opener):
    """A server whose model waits, with a queue of three texts."""
    with held(opener, max_queue=3) as client:
        yield client
