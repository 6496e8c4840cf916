"""Several processes translate as one does."""

import itertools
import os
import signal
from functools import partial

import pytest
from helpers.letters import make_tokenizer, texts
from helpers.tiny import tiny

from seqloom import translate
from seqloom.decoding.jobs import translate_by_jobs

pytestmark = pytest.mark.slow


def opened(name):
    return tiny(name), make_tokenizer()


def dying(name):
    os.kill(os.getpid(), signal.SIGKILL)


class TestJobs:
    def test_as_one_process(self):
        """Whatever the chunks; and the order is kept."""
        given = texts(50)
        expected = translate(tiny("gru-bahdanau"), make_tokenizer(), given, max_new_tokens=6, num_beams=2)
        assert len(set(expected)) > 5
        found = translate_by_jobs(
            partial(opened, "gru-bahdanau"), iter(given), 2, chunk=7, max_new_tokens=6, num_beams=2
        )
        assert list(found) == expected

    def test_draws_do_not_depend_on_the_number_of_processes(self):
        options = {"chunk": 8, "seed": 3, "do_sample": True, "max_new_tokens": 6, "num_return_sequences": 2}
        runs = [list(translate_by_jobs(partial(opened, "rotary"), texts(24), jobs, **options)) for jobs in (1, 2)]
        assert runs[0] == runs[1]
        assert len(runs[0]) == 24
        assert all(len(outputs) == 2 for outputs in runs[0])

    def test_endless_sources(self):
        """Some are read ahead, not all."""
        read = []

        def endless():
            for number in itertools.count():
                read.append(number)
                yield "abc"

        found = translate_by_jobs(partial(opened, "gru"), endless(), 2, chunk=4, max_new_tokens=3)
        assert len(set(itertools.islice(found, 20))) == 1
        found.close()
        assert len(read) < 100

    def test_errors_come_through(self):
        with pytest.raises(ValueError, match="sources are texts"):
            list(translate_by_jobs(partial(opened, "gru"), ["abc", 5], 2, max_new_tokens=3))
        with pytest.raises(ValueError, match="one of the 2 processes has died"):
            list(translate_by_jobs(partial(dying, "gru"), ["abc"], 2, max_new_tokens=3))
