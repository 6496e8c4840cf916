"""From a free port to the end in good order."""

import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.patience import HANGS
from helpers.serving import Client, held, served, until

from seqloom.__main__ import main
from seqloom.serving.run import Model, Options, Server, bound

ONE = {"q": "ab", "source": "en", "target": "de"}


class TestStop:
    def test_what_runs_is_answered(self, opener):
        """Nothing more is accepted meanwhile."""
        with held(opener) as client, ThreadPoolExecutor(2) as pool:
            running = [pool.submit(client.post, "/translate", ONE) for _ in range(2)]
            assert client.entered.acquire(timeout=HANGS)
            client.server.stop()
            until(lambda: not client.is_there())
            client.gate.set()
            assert [asked.result()[0] for asked in running] == [200, 200]

    def test_what_takes_longer_is_told_so(self, opener):
        with held(opener, grace=0) as client, ThreadPoolExecutor(2) as pool:
            running = pool.submit(client.post, "/translate", ONE)
            assert client.entered.acquire(timeout=HANGS)
            waiting = pool.submit(client.post, "/translate", ONE | {"source": "auto", "alternatives": 1})
            until(lambda: client.metric("seqloom_queue_texts") == 1)
            client.server.stop()
            stopped = 503, {"error": "this server is being stopped."}
            assert waiting.result() == stopped
            client.gate.set()
            assert running.result() == stopped

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
    def test_signals(self, folder, capsys, number, status):
        """The command, as it is typed; whoever asks it sends it a signal in the end."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        client, handlers = Client(f"http://127.0.0.1:{port}"), [signal.getsignal(number)]

        def ask():
            until(client.is_there)
            try:
                return client.get("/health")[1]["models"], client.post("/translate", ONE)
            finally:
                os.kill(os.getpid(), number)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            assert main(["serve", str(folder), "--languages", "en", "de", "--port", str(port)]) == status
        models, (answered, _) = asked.result()
        assert models == [{"name": folder.name, "source": "en", "target": "de"}]
        assert answered == 200
        output, errors = capsys.readouterr()
        assert output.startswith(
            f"listening at http://127.0.0.1:{port}; Ctrl-C stops it\nen → de is ready: {folder.name}"
        )
        assert (output if status == 0 else errors).splitlines()[-1].startswith("stopped")
        assert "Traceback" not in errors
        assert [signal.getsignal(number)] == handlers


class TestLoading:
    def test_not_ready(self, opener):
        """It answers while models are loaded, and says that they are."""
        with served(opener) as client:
            worker = client.server.models[0].worker
            engine, worker.engine = worker.engine, None
            assert client.get("/health")[0] == 503
            assert client.refusal("/translate", ONE) == (503, "mine is being loaded: ask again in a moment.")
            worker.engine = engine
            status, answer = client.get("/health")
            assert (status, answer["status"]) == (200, "ok")

    def test_a_mistake_of_ours(self, opener):
        """Whose texts it meets are told so; the others' turn comes."""
        with served(opener) as client:
            engine = client.server.models[0].worker.engine
            decoder, engine.decoder.start = engine.decoder, None
            status, said = client.refusal("/translate", ONE)
            assert (status, said) == (500, "something went wrong here; whoever runs this server sees what.")
            del decoder.start
            assert client.post("/translate", ONE)[0] == 200


class TestRefusals:
    def test_port(self, opener):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ValueError, match=f"port {port} is in use by another program: stop that, or choose"):
                Server([Model("mine", "en", "de", opener)], Options(port=port), print)
        for host, port, sentence in (
            ("127.0.0.1", 65536, "--port is 65536; it can be 1 to 65535, or 0"),
            ("no.such.host.invalid", 0, "--host is 'no.such.host.invalid', which is no address"),
            ("192.0.2.1", 0, "port 0 cannot be had at '192.0.2.1'"),
        ):
            with pytest.raises(ValueError, match=sentence):
                bound(host, port)

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ((), "{folder} does not say which language it reads and which it writes: give their codes"),
            (("--languages", "en"), "--languages has 1 code for 1 model: give two for each"),
            (("--languages", "auto", "de"), "--languages has 'auto', which is no code of a language"),
            (("{folder}", "--languages", "en", "de", "en", "de"), "{folder} and {folder} both translate en to de"),
            (
                ("--languages", "en", "de", "--max_queue", "0"),
                "--max_queue is '0'; it must be a whole number, 1 or more",
            ),
            (("--languages", "en", "de", "--num_beams", "0"), "num_beams is 0; it must be"),
            (
                ("--languages", "en", "de", "--length_penalty", "2.0"),
                "length_penalty is 2.0, which ranks beams",
            ),
            (("--languages", "en", "de", "--decode_dtype", "float8"), "decode_dtype"),
            (("{folder}-none", "--languages", "en", "de", "de", "en"), "there is no folder {folder}-none"),
            (("--nonsense", "5"), "--nonsense is unknown"),
        ],
    )
    def test_command(self, folder, capsys, words, sentence):
        words = [word.format(folder=folder) for word in words]
        assert main(["serve", str(folder), *words, "--port", "0"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence.format(folder=folder) in line

    def test_no_model(self, tmp_path, capsys):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
        assert main(["serve", str(tmp_path), "--languages", "en", "de", "--port", "0"]) == 1
        assert "error: no seq2seq model can be loaded from" in capsys.readouterr().err
        assert main(["serve"]) == 2

    def test_without_the_extra(self, folder, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        assert main(["serve", str(folder), "--languages", "en", "de"]) == 1
        assert capsys.readouterr().err == "error: seqloom serve needs uvicorn: pip install 'seqloom[serve]'\n"
