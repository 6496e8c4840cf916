"""A server that runs, asked over HTTP by clients that nobody here wrote and by those that mean no good."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.letters import texts
from helpers.patience import HANGS
from helpers.serving import held, posted, served, until
from libretranslatepy import LibreTranslateAPI

from seqloom import translate
from seqloom.decoding.loading import open_pair
from seqloom.serving.requests import Limits

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def said(folder):
    """What `translate` says to a text."""
    model, tokenizer = open_pair(str(folder))

    def _said(sources, **options):
        return translate(model, tokenizer, sources, **options)

    return _said


PARTS = "multipart/form-data; boundary=xy"
END = b"\r\n\r\na\r\n--xy--\r\n"


class TestLibreTranslate:
    def test_a_client_from_elsewhere(self, client, said):
        api = LibreTranslateAPI(client.url)
        for source in texts(4):
            assert api.translate(source, "en", "de") == said(source)
            assert api.translate(source, "de", "en") == said(source, num_beams=3)
        assert api.languages() == [
            {"code": "en", "name": "English", "targets": ["de"]}, {"code": "de", "name": "German", "targets": ["en"]},
        ]  # fmt: skip

    def test_one_and_several(self, client, said):
        """In JSON, and in both kinds of forms."""
        sources = texts(5)
        assert client.post("/translate", {"q": sources, "source": "en", "target": "de"}) == (
            200, {"translatedText": said(sources)},
        )  # fmt: skip
        form = "&".join(f"q={source}" for source in sources) + "&source=en&target=de"
        status, _, text = client.ask("POST", "/translate", form, {"Content-Type": f"{FORM}; charset=utf-8"})
        assert (status, json.loads(text)) == (200, {"translatedText": said(sources)})
        parts = {"q": sources[0], "source": "en", "target": "de", "format": "text"}
        body = "".join(
            f'--xy\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts.items()
        )
        status, _, text = client.ask(
            "POST", "/translate", f"{body}--xy--\r\n", {"Content-Type": "multipart/form-data; boundary=xy"}
        )
        assert (status, json.loads(text)) == (200, {"translatedText": said(sources[0])})

    def test_lines_stay_lines(self, client, said):
        """Each is translated by itself; what has nothing in it stays."""
        first, second = texts(2)
        _, answer = client.post("/translate", {"q": f"{first}\r\n \n{second}\n", "source": "en", "target": "de"})
        assert answer == {"translatedText": f"{said(first)}\n \n{said(second)}\n"}
        assert client.post("/translate", {"q": " \n", "source": "en", "target": "de"})[1] == {"translatedText": " \n"}

    def test_alternatives(self, client, said):
        sources = texts(3)
        expected = said(sources, num_beams=4, num_return_sequences=4)
        asked = {"source": "en", "target": "de", "alternatives": 3}
        assert client.post("/translate", {"q": sources, **asked})[1] == {
            "translatedText": [best for best, *_ in expected], "alternatives": [others for _, *others in expected],
        }  # fmt: skip
        assert client.post("/translate", {"q": sources[0], **asked})[1] == {
            "translatedText": expected[0][0], "alternatives": expected[0][1:],
        }  # fmt: skip

    def test_nothing_is_detected(self, client):
        """The one source that there is for a target is taken; nobody is told that it was found out."""
        _, answer = client.post("/translate", {"q": "ab", "source": "auto", "target": "de"})
        assert answer["detectedLanguage"] == {"language": "en", "confidence": 0.0}
        assert client.refusal("/detect", {"q": "ab"}) == (
            501, "this server does not detect languages: say which source it is; there is en to de, de to en.",
        )  # fmt: skip

    def test_what_apps_ask_first(self, client):
        status, answer = client.get("/frontend/settings")
        assert status == 200
        assert answer["charLimit"] == 5000
        assert answer["keyRequired"] is False
        assert answer["language"]["target"] == {"code": "de", "name": "German"}

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"q": None}, "q is missing: give a text"),
            ({"q": ""}, "q is missing: give a text"),
            ({"q": 5}, "q is 5; give a text, or a list of texts."),
            ({"q": ["a", None]}, "q is None; give a text, or a list of texts."),
            ({"q": []}, "q has 0 texts; send 1 to 128 at a time."),
            ({"q": ["a"] * 129}, "q has 129 texts; send 1 to 128 at a time."),
            ({"q": "a" * 5001}, "a text of q has 5,001 characters, and this server takes 5,000: split it."),
            ({"q": "a\ud800"}, "a text of q holds half of a surrogate pair"),
            ({"source": "fr"}, "'fr' to 'de' is not translated here: there is en to de, de to en."),
            ({"target": "en"}, "'en' to 'en' is not translated here"),
            ({"target": None}, "target is missing: give the code of a language; there is en to de, de to en."),
            ({"source": ["en"]}, "source is ['en']; give a text."),
            ({"format": "html"}, "format is 'html', and this server translates plain text alone"),
            ({"alternatives": -1}, "alternatives is -1; give a whole number from 0 to 9."),
            ({"alternatives": "many"}, "alternatives is 'many'; give a whole number"),
            ({"alternatives": True}, "alternatives is True; give a whole number"),
        ],
    )
    def test_refuses(self, client, changes, sentence):
        status, said = client.refusal("/translate", {"q": "ab", "source": "en", "target": "de"} | changes)
        assert status == 400
        assert sentence in said

    @pytest.mark.parametrize(
        ("kind", "body", "sentence"),
        [
            ("application/json", b"{", "the body cannot be read ("),
            ("application/json", b"\xff", "the body cannot be read ("),
            ("application/json", b"[" * 100_000, "it is nested too deeply to be read"),
            ("application/json", b"[1]", "the body is [1]; send a JSON object"),
            (FORM, b'{"q": "a"}', "source is missing: give the code of a language"),
            (FORM, b"q=%ff%fe", "the body cannot be read ("),
            (FORM, b"q=a&" * 2000, "the body cannot be read ("),
            ("multipart/form-data; boundary=xy", b"nothing", "it is no form in parts"),
            ("multipart/form-data", b"nothing", "it is no form in parts"),
            (
                PARTS,
                b'--xy\r\nContent-Disposition: form-data; name="q"' + b"; x" * 40_000 + END,
                "a part's head has 120,",
            ),
            (PARTS, b"--xy\r\nContent-Disposition: form-data; name=" + b"(" * 900 + END, "q is missing"),
            (PARTS, b"--xy\r\nContent-Type: multipart/mixed; boundary=xy\r\n" * 3000 + END, "more than 1,000"),
        ],
    )
    def test_refuses_bodies(self, client, kind, body, sentence):
        status, _, text = client.ask("POST", "/translate", body, {"Content-Type": kind})
        assert status == 400, text
        assert sentence in json.loads(text)["error"]

    def test_paths_and_methods(self, client):
        assert client.get("/nonsense") == (404, {"error": "GET /nonsense: Not Found"})
        assert client.get("/translate") == (405, {"error": "GET /translate: Method Not Allowed"})


class TestOurs:
    def test_scores(self, client, said):
        sources = texts(3)
        asked = {"texts": sources, "source": "en", "target": "de", "num_return_sequences": 2, "return_scores": True}
        expected = said(sources, num_beams=2, num_return_sequences=2, return_hypotheses=True)
        _, answer = client.post("/v1/translate", asked)
        assert answer["model"] == "mine"
        for found, best in zip(answer["outputs"], expected, strict=True):
            assert [one["text"] for one in found] == [one.text for one in best]
            assert [one["score"] for one in found] == pytest.approx([one.score for one in best], abs=1e-4)

    def test_a_line_when_it_is_done(self, client, said):
        sources = texts(9)
        body = json.dumps({"texts": sources, "source": "de", "target": "en", "num_beams": 2, "stream": True})
        status, headers, text = client.ask("POST", "/v1/translate", body)
        lines = [json.loads(line) for line in text.splitlines()]
        assert (status, headers["content-type"]) == (200, "application/x-ndjson")
        assert sorted(line["index"] for line in lines) == list(range(9))
        expected = said(sources, num_beams=2)
        assert all(line["outputs"] == [{"text": expected[line["index"]]}] for line in lines)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"text": "a"}, "'text' is unknown; there are texts, source,"),
            ({"num_beams": 11}, "num_beams is 11; give a whole number from 1 to 10."),
            ({"stream": 1}, "stream is 1; give true or false."),
            ({"source": None}, "source is missing"),
        ],
    )
    def test_refuses(self, client, changes, sentence):
        status, said = client.refusal("/v1/translate", {"texts": ["a"], "source": "en", "target": "de"} | changes)
        assert status == 400
        assert sentence in said


class TestLoad:
    def test_many_at_once(self, client, said):
        """Every answer is the one to its own question, whatever else was asked at the same time."""
        sources = texts(60)
        greedy, beams, best = said(sources), said(sources, num_beams=3), said(sources, num_beams=2)

        def ask(place):
            one = {"q": sources[place], "source": "en", "target": "de"}
            if place % 3 == 0:
                return client.post("/translate", one)[1]["translatedText"] == greedy[place]
            if place % 3 == 1:
                return (
                    client.post("/translate", one | {"source": "de", "target": "en"})[1]["translatedText"]
                    == beams[place]
                )
            asked = {"texts": [sources[place]], "source": "en", "target": "de", "num_beams": 2}
            return client.post("/v1/translate", asked)[1]["outputs"] == [[{"text": best[place]}]]

        with ThreadPoolExecutor(20) as pool:
            assert all(pool.map(ask, range(60)))

    def test_metrics(self, client):
        before = client.metric("seqloom_texts_total"), client.metric("seqloom_request_seconds_count")
        client.post("/translate", {"q": texts(4), "source": "en", "target": "de"})
        status, headers, text = client.ask("GET", "/metrics")
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert client.metric("seqloom_texts_total") == before[0] + 4
        assert client.metric("seqloom_request_seconds_count") > before[1]
        assert client.metric("seqloom_ready") == 2
        assert 'seqloom_requests_total{path="/translate",status="200"}' in text


class TestLimits:
    ONE = {"q": "ab", "source": "en", "target": "de"}

    def test_a_body_of_a_gigabyte_is_not_read(self, client):
        """Whether it says so before, or just goes on."""
        with client.raw(posted("/translate", b"{", length=1 << 30)) as connection:
            answer = connection.makefile("rb").read()  # the connection is closed: nothing more is read
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"the body has 1,073,741,824 bytes, and this server reads 1,048,576: send less at a time." in answer
        head = b"POST /translate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        with client.raw(head + b"100001\r\n" + b" " * 0x100001) as connection:
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 413 ")

    def test_full(self, gated):
        """What has no room is told so at once, and what had is answered."""
        with ThreadPoolExecutor(4) as pool:
            running = pool.submit(gated.post, "/translate", self.ONE)
            assert gated.entered.acquire(timeout=HANGS)
            waiting = pool.submit(gated.post, "/translate", self.ONE | {"q": ["a", "b", "c"]})
            until(lambda: gated.metric("seqloom_queue_texts") == 3)
            status, headers, text = gated.ask("POST", "/translate", json.dumps(self.ONE))
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(text) == {"error": "the queue is full: ask again in a moment, or send fewer texts."}
            assert gated.refusal("/translate", self.ONE | {"q": "a\n" * 4})[0] == 400
            assert gated.get("/health")[0] == 200
            gated.gate.set()
            assert (running.result()[0], waiting.result()[0]) == (200, 200)

    def test_who_hangs_up_leaves_the_queue(self, gated):
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(gated.post, "/translate", self.ONE)
            assert gated.entered.acquire(timeout=HANGS)
            with gated.raw(posted("/translate", json.dumps(self.ONE | {"q": ["a", "b"]}).encode())):
                until(lambda: gated.metric("seqloom_queue_texts") == 2)
            with gated.raw(posted("/v1/translate", b'{"texts": ["c"], "stream": true}')):
                until(lambda: gated.metric("seqloom_queue_texts") <= 1)
            until(lambda: gated.metric("seqloom_queue_texts") == 0)
            assert gated.metric("seqloom_texts_dropped_total") == 3
            gated.gate.set()
            assert running.result()[0] == 200

    def test_time(self, opener):
        """A request has its time, and no more; its text leaves the queue."""
        with held(opener, limits=Limits(seconds=1)) as client:
            status, said = client.refusal("/translate", self.ONE)
            assert (status, said) == (504, "the answer was not there within 1 seconds: send less, or ask again.")
            _, _, text = client.ask("POST", "/v1/translate", json.dumps({"texts": ["a"], "stream": True}))
            assert json.loads(text) == {"error": said}
            assert client.metric("seqloom_queue_texts") == 0
            with client.raw(posted("/translate", b"{", length=5)) as connection:
                assert connection.makefile("rb").read().startswith(b"HTTP/1.1 408 ")

    def test_key_and_pages(self, opener):
        with served(opener, api_key="geheim", cors_origins=["https://example.org"]) as client:
            wanted = "this server wants an API key: give it as api_key, or in the header Authorization: Bearer KEY."
            assert client.refusal("/translate", self.ONE) == (403, wanted)
            assert client.refusal("/translate", self.ONE | {"api_key": "falsch"})[0] == 403
            assert client.refusal("/v1/translate", {"texts": ["a"]}, Authorization="Bearer é")[0] == 403
            assert client.post("/translate", self.ONE | {"api_key": "geheim"})[0] == 200
            assert client.post("/v1/translate", {"texts": ["a"]}, Authorization="Bearer geheim")[0] == 200
            assert LibreTranslateAPI(client.url, api_key="geheim").translate("ab", "en", "de")
            assert client.get("/frontend/settings")[1]["keyRequired"] is True
            for origin, allowed in (("https://example.org", "https://example.org"), ("https://example.com", None)):
                headers = client.ask("GET", "/languages", headers={"Origin": origin})[1]
                assert headers["access-control-allow-origin"] == allowed

    def test_pages_are_not_let_in(self, client):
        headers = client.ask("GET", "/languages", headers={"Origin": "https://example.org"})[1]
        assert "access-control-allow-origin" not in headers
