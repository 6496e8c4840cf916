"""Whatever a model is and whatever runs it: texts that come one by one have the outputs that they have together."""

import threading

import pytest
from helpers.exports import exported, lively
from helpers.letters import make_tokenizer, texts
from helpers.others import POSITIONS, save_other
from helpers.serving import opened
from helpers.tiny import tiny

from seqloom import translate
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.exported import ExportedModel
from seqloom.serving.engine import Asked, Engine
from seqloom.serving.worker import Full, NotReady, Stopped, Worker

WAYS = {
    "as it is": (Asked(), {}),
    "beams": (Asked(num_beams=3), {"num_beams": 3}),
    "several": (Asked(num_beams=3, num_return_sequences=2), {"num_beams": 3, "num_return_sequences": 2}),
}


@pytest.fixture
def started():
    """Starts workers that end with the test."""
    workers = []

    def _started(engine, max_queue=100):
        workers.append(Worker(lambda: engine, max_queue))
        workers[-1].loading.result()
        return workers[-1]

    yield _started
    for worker in workers:
        worker.close()


def short(model):
    model.generation_config.max_new_tokens = 8
    return model


def check(worker, sources, told=None):
    """Each text is a request, and the later ones come while the first are decoded."""
    engine = worker.engine
    for asked, more in WAYS.values():
        jobs = [job for source in sources for job in worker.submit([source], asked)]
        expected = translate(engine.model, engine.tokenizer, sources, **(told or {}) | more)
        expected = [found if isinstance(found, list) else [found] for found in expected]
        assert [[output.text for output in job.result()] for job in jobs] == expected


class TestEngines:
    @pytest.mark.parametrize("name", ["rotary", "lstm-luong-fed", "hybrid"])
    def test_ours(self, started, name):
        check(started(Engine(short(tiny(name)), make_tokenizer(), {})), texts(12))

    @pytest.mark.parametrize("told", [{"length_penalty": 2.0}, {"coverage_penalty": 3.0}])
    def test_with_options(self, started, told):
        told |= {"num_beams": 2}
        check(started(Engine(short(lively(0)), make_tokenizer(), told, batch_tokens=60)), texts(12), told)

    def test_with_what_our_search_has_not(self, started):
        told = {"sequence_bias": [[[5], 2.0]]}
        check(started(Engine(short(tiny("rotary")), make_tokenizer(), told)), texts(12), told)

    def test_of_others(self, started, tmp_path):
        """By their own `generate`; what they cannot read is refused, and nothing else."""
        worker = started(opened(save_other("marian", tmp_path)))
        sources = ["a b c", "d", "e f", "g h a b"]
        check(worker, sources)
        long, other = worker.submit([" ".join("a" * POSITIONS), "d"], Asked())
        with pytest.raises(ValueError, match="the source has 25 tokens, but MarianMTModel has positions for 24 only"):
            long.result()
        assert other.result()[0].text == translate(worker.engine.model, worker.engine.tokenizer, "d")

    def test_exported_with_a_step_of_its_own(self, started, tmp_path):
        """As ONNX Runtime and compiled programs have it."""
        model = short(tiny("rotary"))
        about = {"engine": "onnx", "model": "mine"}
        there = ExportedModel(tmp_path, about, model.config, model.generation_config, decoder_for(model))
        check(started(Engine(there, make_tokenizer(), {})), texts(12))
        with pytest.raises(ValueError, match="which cannot compute in int8"):
            Engine(there, make_tokenizer(), {}, dtype="int8")

    @pytest.mark.slow
    def test_exported_with_a_search_of_its_own(self, started, tmp_path):
        exported(tmp_path, lively(0), "ctranslate2")
        check(started(opened(tmp_path / "exported")), texts(12))

    def test_dtype(self, started, tmp_path):
        engine = Engine(short(tiny("rotary")), make_tokenizer(), {}, dtype="int8")
        (job,) = started(engine).submit(["abc"], Asked(return_scores=True))
        assert job.result()[0].text == translate(engine.model, engine.tokenizer, "abc", dtype="int8")
        with pytest.raises(
            ValueError, match="dtype='int8' is for seqloom's own search, but it is no model of seqloom's"
        ):
            opened(save_other("marian", tmp_path), dtype="int8")

    def test_what_cannot_be(self, started):
        """Is said to who asked for it."""
        worker = started(Engine(short(tiny("rotary")), make_tokenizer(), {"num_beams": 3, "length_penalty": 2.0}))
        (wrong,), (right,) = worker.submit(["abc"], Asked(num_beams=1)), worker.submit(["abc"], Asked())
        with pytest.raises(ValueError, match=r"length_penalty is 2\.0, which ranks beams, but"):
            wrong.result()
        assert len(right.result()) == 1


class TestWorker:
    def test_queue(self):
        """It has an end, beyond which nothing of a request comes in; whoever leaves makes room."""
        gate = threading.Event()
        worker = Worker(lambda: gate.wait() and Engine(short(tiny("rotary")), make_tokenizer(), {}), max_queue=3)
        with pytest.raises(NotReady):
            worker.submit(["a"], Asked())
        gate.set()
        worker.loading.result()
        with worker._lock:  # the thread gets nothing out of the queue
            first = worker.submit(["a", "b"], Asked())
            with pytest.raises(Full):
                worker.submit(["c", "d"], Asked())
            assert worker.drop(first[:1]) == 1
            second = worker.submit(["c", "d"], Asked())
        assert [len(job.result()) for job in (first[1], *second)] == [1, 1, 1]
        assert worker.drop(second) == 0
        worker.close()
        with pytest.raises(Stopped):
            worker.submit(["a"], Asked())

    def test_a_text_that_breaks_something(self, started):
        """Is told so once, and those behind it have their turn."""
        worker = started(Engine(short(tiny("rotary")), make_tokenizer(), {}))
        encode = worker.engine.encode

        def breaks(job):
            if job.text == "b":
                raise RuntimeError("broken")
            return encode(job)

        worker.engine.encode = breaks
        with worker._lock:
            jobs = worker.submit(["a", "b", "c"], Asked())
        assert len(jobs[2].result()) == 1
        with pytest.raises(RuntimeError, match="broken"):
            jobs[1].result()
        assert not worker.running

    def test_a_stop_ends_what_runs(self, started):
        engine = Engine(tiny("rotary"), make_tokenizer(), {"max_new_tokens": 1_000_000, "min_new_tokens": 999_999})
        worker = started(engine)
        running, waiting = worker.submit(["a"], Asked()) + worker.submit(["a"], Asked(num_beams=2))
        while not running.running():
            pass
        worker.close()
        for job in (running, waiting):
            with pytest.raises(Stopped):
                job.result()
