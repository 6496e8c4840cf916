"""Texts in, texts out: `translate` and `stream` give what the model gives one by one."""

import itertools
from collections import Counter

import pytest
import torch
from helpers.letters import LETTERS, OPTIONS, SAMPLING, alone, make_tokenizer, texts
from helpers.tiny import RNNS, tiny
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MaxLengthCriteria

from seqloom import Hypothesis, decoder_for, stream, translate
from seqloom.data.tokenization import train_tokenizer
from seqloom.settings.schema import TokenizerSettings

FAMILIES = ["lstm-luong", "rnn-bahdanau", "gru", "hybrid", "post-norm", "rotary-swiglu-pre-norm"]


WITHOUT_ATTENTION = {name for name, fields in RNNS.items() if fields.get("attention") == "none"}


@pytest.fixture(params=FAMILIES)
def pair(request):
    """A model and its tokenizer."""
    return tiny(request.param), make_tokenizer()


class TestTranslate:
    @pytest.mark.slow
    def test_as_the_sources_so_the_outputs(self, pair):
        model, tokenizer = pair
        sources = texts(20)
        expected = [alone(model, tokenizer, source)[0] for source in sources]
        assert translate(model, tokenizer, sources[3], **OPTIONS) == expected[3]
        assert translate(model, tokenizer, sources, batch_tokens=30, **OPTIONS) == expected
        assert translate(model, tokenizer, tuple(sources), read_ahead=7, **OPTIONS) == expected
        outputs = translate(model, tokenizer, iter(sources), read_ahead=6, batch_tokens=25, **OPTIONS)
        assert iter(outputs) is outputs
        assert list(outputs) == expected

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_target_prefix(self, pair, num_beams):
        """It stands at the beginning, and `generate` goes on as we do; of a list each source has its own."""
        model, tokenizer = pair
        sources, prefixes = texts(9), ["", "ab", "c", "", "dea", "b", "", "hh", "a"]
        found = translate(
            model, tokenizer, sources, target_prefix=prefixes, read_ahead=4, num_beams=num_beams, **OPTIONS
        )
        for source, prefix, output in zip(sources, prefixes, found, strict=True):
            ids = [model.config.decoder_start_token_id, *tokenizer(prefix, add_special_tokens=False)["input_ids"]]
            rest = model.generate(
                **tokenizer([source], return_tensors="pt"), decoder_input_ids=torch.tensor([ids]), num_beams=num_beams,
                **OPTIONS,
            )  # fmt: skip
            assert output == tokenizer.decode(rest[0], skip_special_tokens=True)
            assert output.startswith(prefix)
        same = translate(model, tokenizer, iter(sources), target_prefix="ab", num_beams=num_beams, **OPTIONS)
        assert all(output.startswith("ab") for output in same)
        with pytest.raises(ValueError, match=r"target_prefix has 2 texts for 9 of sources; give one for each"):
            translate(model, tokenizer, sources, target_prefix=["a", "b"])
        with pytest.raises(ValueError, match=r"target_prefix is for seqloom's own search, but renormalize_logits"):
            translate(model, tokenizer, sources, target_prefix="a", renormalize_logits=True)

    def test_a_decoder_that_is_made_once(self, pair, monkeypatch):
        model, tokenizer = pair
        decoder, expected = decoder_for(model), translate(model, tokenizer, texts(5), **OPTIONS)
        monkeypatch.setattr("seqloom.decoding.translate.decoder_for", pytest.fail)
        assert translate(model, tokenizer, texts(5), decoder=decoder, **OPTIONS) == expected
        assert list(translate(model, tokenizer, iter(texts(5)), decoder=decoder, **OPTIONS)) == expected
        with pytest.raises(ValueError, match=r"dtype is 'int8', but the decoder that is given has its own"):
            translate(model, tokenizer, "ab", decoder=decoder, dtype="int8")

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_budget(self, monkeypatch, num_beams):
        """Of source tokens with padding, counted for every beam, whether the beams are asked for or the model's own."""
        model, tokenizer = tiny("post-norm"), make_tokenizer()
        model.generation_config.num_beams = num_beams
        shapes = []
        original = model.generate
        monkeypatch.setattr(
            model,
            "generate",
            lambda *, input_ids, **rest: shapes.append(input_ids.shape) or original(input_ids, **rest),
        )
        for options in ({}, {"num_beams": 2}):
            shapes.clear()
            # An option that the search has not: `generate` decodes.
            translate(model, tokenizer, texts(30), batch_tokens=80, renormalize_logits=True, **options, **OPTIONS)
            beams = options.get("num_beams", num_beams)
            assert sum(rows for rows, _ in shapes) == 30
            assert max(rows * width * beams for rows, width in shapes) <= 80
            assert max(rows for rows, _ in shapes) > 1
            widths = [width for _, width in shapes]
            assert widths == sorted(widths, reverse=True)  # if memory is short, that shows at once

    def test_empty_texts_and_too_long_ones(self):
        model, tokenizer = tiny("post-norm"), make_tokenizer()
        assert len(translate(model, tokenizer, ["", "a" * 50, ""], batch_tokens=3, **OPTIONS)) == 3

    def test_endless(self):
        """No more is read than is held at a time, and outputs come before the end, which there is none."""
        model, tokenizer = tiny("lstm-luong"), make_tokenizer()
        read = []
        endless = (read.append(source) or source for source in itertools.cycle(texts(5)))
        outputs = translate(model, tokenizer, endless, read_ahead=4, **OPTIONS)
        assert not read
        assert [next(outputs) for _ in range(6)] == [alone(model, tokenizer, source)[0] for source in read[:6]]
        assert len(read) == 8

    @pytest.mark.slow
    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_n_best(self, pair, num_beams):
        model, tokenizer = pair
        options = {"num_beams": num_beams, "num_return_sequences": num_beams} if num_beams > 1 else {}
        outputs = translate(model, tokenizer, texts(9), batch_tokens=60, **options, **OPTIONS)
        for source, found in zip(texts(9), outputs, strict=True):
            assert (found if options else [found]) == alone(model, tokenizer, source, **options)

    def test_generation_config_of_the_call(self, pair):
        """Its beams and results count, not the model's own."""
        model, tokenizer = pair
        config = GenerationConfig.from_dict(model.generation_config.to_dict() | {"num_beams": 3, **OPTIONS})
        config.num_return_sequences = 2
        outputs = translate(model, tokenizer, texts(5), generation_config=config)
        options = {"num_beams": 3, "num_return_sequences": 2}
        assert outputs == [alone(model, tokenizer, source, **options) for source in texts(5)]

    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("returned", [1, 2])
    def test_hypotheses_hold_what_the_model_thinks(self, name, returned):
        model, tokenizer = tiny(name), make_tokenizer()
        sources = texts(7)
        options = {"num_return_sequences": returned, **SAMPLING}
        before = model.config._attn_implementation
        torch.manual_seed(5)
        found = translate(model, tokenizer, sources, output_attentions=True, batch_tokens=70, **options)
        assert model.config._attn_implementation == before
        torch.manual_seed(5)
        plain = translate(model, tokenizer, sources, batch_tokens=70, **options)
        lengths = set()
        for source, hypotheses, expected in zip(sources, found, plain, strict=True):
            assert isinstance(hypotheses, Hypothesis if returned == 1 else list)
            every = hypotheses if returned > 1 else [hypotheses]
            assert [hypothesis.text for hypothesis in every] == (expected if returned > 1 else [expected])
            for hypothesis in every:
                lengths.add(len(hypothesis.target_tokens))
                self.check(model, tokenizer, source, hypothesis, name in WITHOUT_ATTENTION)

        assert len(lengths) > 1

    def check(self, model, tokenizer, source: str, hypothesis: Hypothesis, has_no_attention: bool):
        """Against the model's own logits for this pair alone."""
        inputs = tokenizer([source], return_tensors="pt")
        targets = tokenizer.convert_tokens_to_ids(hypothesis.target_tokens)
        assert tokenizer.decode(targets, skip_special_tokens=True) == hypothesis.text
        assert hypothesis.source_tokens == [*source, "</s>"]
        assert targets.count(tokenizer.eos_token_id) <= 1
        decoder_input_ids = torch.tensor([[model.config.decoder_start_token_id, *targets[:-1]]])
        model.set_attn_implementation("eager")
        with torch.no_grad():
            outputs = model(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                decoder_input_ids=decoder_input_ids,
                output_attentions=True,
            )
        scores = [row[token].item() for row, token in zip(outputs.logits[0].log_softmax(-1), targets, strict=True)]
        assert hypothesis.token_scores == pytest.approx(scores, abs=1e-4)
        assert hypothesis.score == pytest.approx(sum(scores), abs=1e-3)
        if has_no_attention:
            assert hypothesis.cross_attentions is None
        else:
            maps = torch.stack(outputs.cross_attentions, dim=1)[0]
            assert hypothesis.cross_attentions.shape == maps.shape
            torch.testing.assert_close(hypothesis.cross_attentions, maps, atol=1e-4, rtol=1e-3)

    def test_scores_without_attentions(self):
        model, tokenizer = tiny("post-norm"), make_tokenizer()
        (hypothesis,) = translate(model, tokenizer, texts(1), return_hypotheses=True, **OPTIONS)
        assert hypothesis.cross_attentions is None
        assert hypothesis.score < 0

    def test_two_vocabularies(self):
        model, tokenizer = tiny("lstm-bahdanau"), make_tokenizer(shared=False)
        for hypothesis in translate(model, tokenizer, texts(6), output_attentions=True, **OPTIONS):
            assert set(hypothesis.source_tokens) <= {*LETTERS, "</s>"}
            assert set(hypothesis.text) <= {*LETTERS.upper(), *"QRS"}
            assert "".join(hypothesis.target_tokens).startswith(hypothesis.text)

    def test_another_librarys_model(self):
        config = MarianConfig(
            vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
            pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, bos_token_id=1, forced_eos_token_id=None,
        )  # fmt: skip
        model, tokenizer = MarianMTModel(config).eval(), make_tokenizer()
        found = translate(model, tokenizer, texts(5), output_attentions=True, num_beams=2, **OPTIONS)
        assert [hypothesis.text for hypothesis in found] == [
            alone(model, tokenizer, source, num_beams=2)[0] for source in texts(5)
        ]
        assert all(hypothesis.cross_attentions.shape[:2] == (2, 2) for hypothesis in found)
        sums = torch.cat([hypothesis.cross_attentions.sum(-1).flatten() for hypothesis in found])
        torch.testing.assert_close(sums, torch.ones_like(sums))

    def test_coverage_penalty(self):
        model, tokenizer = tiny("lstm-luong"), make_tokenizer()
        options = {"num_beams": 5, **OPTIONS}
        every = translate(model, tokenizer, texts(30), output_attentions=True, num_return_sequences=5, **options)
        chosen = translate(model, tokenizer, texts(30), coverage_penalty=2.0, **options)
        plain = translate(model, tokenizer, texts(30), **options)
        assert chosen != plain
        for hypotheses, text, first in zip(every, chosen, plain, strict=True):
            by_text = {hypothesis.text: self.uncovered(hypothesis) for hypothesis in reversed(hypotheses)}
            assert first == hypotheses[0].text
            assert by_text[text] >= by_text[first] - 1e-5  # never one that covers less

    def uncovered(self, hypothesis: Hypothesis) -> float:
        words = hypothesis.cross_attentions.mean((0, 1))
        words = words[: len(words) - (hypothesis.target_tokens[-1] == "</s>")]
        return words.sum(0).clamp(1e-9, 1).log().sum().item()

    @pytest.mark.parametrize("is_training", [True, False])
    def test_mode_is_left_as_it_was(self, is_training):
        model, tokenizer = tiny("gru", dropout=0.5).train(is_training), make_tokenizer()
        assert translate(model, tokenizer, texts(3), **OPTIONS) == translate(model, tokenizer, texts(3), **OPTIONS)
        assert model.training == is_training
        with pytest.raises(ValueError, match="nonsense"):
            translate(model, tokenizer, texts(3), nonsense=1)
        assert model.training == is_training

    def test_progress(self, capsys):
        model, tokenizer = tiny("gru"), make_tokenizer()
        translate(model, tokenizer, texts(3), **OPTIONS)
        assert not capsys.readouterr().err
        translate(model, tokenizer, texts(3), progress=True, **OPTIONS)
        assert "3/3" in capsys.readouterr().err
        translate(model, tokenizer, "abc", progress=True, **OPTIONS)
        assert "1/1" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("sources", "options", "words"),
        [
            (["a", None], {}, "one of them is None"),
            ([["a"]], {}, r"one of them is \['a'\]"),
            (["a"], {"batch_tokens": 0}, "batch_tokens is 0"),
            (iter(["a"]), {"read_ahead": 0}, "read_ahead is 0"),
        ],
    )
    def test_refuses(self, sources, options, words):
        with pytest.raises(ValueError, match=words):
            translate(tiny("gru"), make_tokenizer(), sources, **options)

    def test_nothing_gives_nothing(self):
        assert translate(tiny("gru"), make_tokenizer(), []) == []
        assert list(translate(tiny("gru"), make_tokenizer(), iter([]))) == []


class TestCompany:
    """An output is the same whatever company it was decoded in, whatever the call asks for."""

    OTHER_ENDS = (
        {},
        {"num_beams": 2},
        {"num_beams": 2, "repetition_penalty": 1.01},
        {"num_beams": 2, "as_config": True},
    )

    @pytest.mark.parametrize("options", OTHER_ENDS, ids=lambda options: "-".join(options) or "greedy")
    def test_ends_of_the_call(self, pair, options):
        """In text, tokens and scores: the model's own end is none of them."""
        model, tokenizer = pair
        sources = texts(9)
        plain = translate(model, tokenizer, sources, return_tokens=True, max_new_tokens=12)
        end = Counter(ids[len(ids) // 2] for _, ids in plain).most_common(1)[0][0]
        options = dict(options, eos_token_id=end)
        if options.pop("as_config", False):
            options = {"generation_config": GenerationConfig(**options)}
        options["max_new_tokens"] = 12
        together = translate(model, tokenizer, sources, return_hypotheses=True, **options)
        ids = [ids for _, ids in translate(model, tokenizer, sources, return_tokens=True, **options)]
        assert any(row[-1] == end for row in ids)
        assert all(end not in row[:-1] for row in ids)
        for source, hypothesis, row in zip(sources, together, ids, strict=True):
            by_itself = translate(model, tokenizer, source, return_hypotheses=True, **options)
            assert hypothesis.text == by_itself.text == tokenizer.decode(row, skip_special_tokens=True)
            assert hypothesis.target_tokens == by_itself.target_tokens == tokenizer.convert_ids_to_tokens(row)
            assert hypothesis.score == pytest.approx(by_itself.score, abs=1e-3)
            assert len(hypothesis.token_scores) == len(row)

    def test_prefixes_of_many_lengths(self, pair):
        """No padding is scored, nor given back."""
        model, tokenizer = pair
        sources, prefixes = texts(3), ["abcd", "", "a"]
        options = {"max_new_tokens": 3, "return_hypotheses": True}
        for source, prefix, together in zip(
            sources, prefixes, translate(model, tokenizer, sources, target_prefix=prefixes, **options), strict=True
        ):
            by_itself = translate(model, tokenizer, source, target_prefix=prefix, **options)
            assert together.target_tokens == by_itself.target_tokens
            assert together.score == pytest.approx(by_itself.score, abs=1e-3)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}], ids="-".join)
    def test_what_is_allowed_of_each_source(self, pair, options):
        """Of each by its place among all, in whatever batch it is."""
        model, tokenizer = pair
        sources, letters = texts(6), tokenizer("abcdef", add_special_tokens=False)["input_ids"]
        found = translate(
            model, tokenizer, sources, prefix_allowed_tokens_fn=lambda place, ids: [letters[place]], max_new_tokens=2,
            num_return_sequences=2 if options else 1, read_ahead=4, batch_tokens=12, **options,
        )  # fmt: skip
        for letter, outputs in zip("abcdef", found, strict=True):
            assert set([outputs] if isinstance(outputs, str) else outputs) == {letter * 2}

    def test_rows_of_the_callers(self, pair):
        model, tokenizer = pair
        start = model.config.decoder_start_token_id
        rows = torch.tensor([[start, 5], [start, 6]])
        for options in ({"decoder_input_ids": rows}, {"decoder_start_token_id": [5, 6]}):
            with pytest.raises(ValueError, match="a row for each of a batch, but 2 sources are decoded"):
                translate(model, tokenizer, texts(2), **options)
        assert translate(model, tokenizer, texts(2)[0], decoder_input_ids=rows[:1], max_new_tokens=2)

    def test_a_config_without_a_length(self, pair):
        """The model's own limit fills it, as it does for `generate`."""
        model, tokenizer = pair
        model.generation_config.max_new_tokens = 4
        config = GenerationConfig(num_beams=2)
        found = translate(model, tokenizer, texts(5), generation_config=config, return_tokens=True)
        assert max(len(ids) for _, ids in found) <= 4


class TestStream:
    def test_pieces_are_the_greedy_output(self, pair):
        model, tokenizer = pair
        model.generation_config.num_beams = 4  # beams cannot be streamed: greedy search it is
        pieces = list(stream(model, tokenizer, "abcab", **OPTIONS))
        assert "".join(pieces) == alone(model, tokenizer, "abcab", num_beams=1)[0]

    def test_samples(self):
        model, tokenizer = tiny("post-norm"), make_tokenizer()
        torch.manual_seed(3)
        text = "".join(stream(model, tokenizer, "abc", do_sample=True, **OPTIONS))
        torch.manual_seed(3)
        assert text == alone(model, tokenizer, "abc", do_sample=True)[0]

    def test_reader_may_leave(self):
        """Then the writing ends. In some versions of transformers a piece ends with its word, so words it must be."""
        model = tiny("gru")
        settings = TokenizerSettings(kind="word", vocab_size=20)
        tokenizer = train_tokenizer([" ".join(LETTERS)], [" ".join(LETTERS)], settings)
        steps = []
        forward = model.model.decoder.forward
        model.model.decoder.forward = lambda *args, **kwargs: steps.append(1) or forward(*args, **kwargs)
        pieces = stream(model, tokenizer, "a b c", max_new_tokens=3000, min_new_tokens=2999)
        words = next(pieces).split()
        assert words
        assert set(words) <= set(LETTERS)
        pieces.close()
        assert len(steps) < 2000

    def test_errors_are_the_readers(self):
        model, tokenizer = tiny("gru").train(), make_tokenizer()
        with pytest.raises(ValueError, match="nonsense"):
            list(stream(model, tokenizer, "abc", nonsense=1))
        assert model.training

    def test_refuses_several_texts(self):
        with pytest.raises(ValueError, match="stream takes one text, but is given"):
            stream(tiny("gru"), make_tokenizer(), ["a", "b"])

    def test_a_criterion_alone(self):
        model, tokenizer = tiny("gru"), make_tokenizer()
        plain = "".join(stream(model, tokenizer, "abc", max_new_tokens=4))
        for criteria in (None, [], MaxLengthCriteria(5), [MaxLengthCriteria(5)]):
            assert "".join(stream(model, tokenizer, "abc", max_new_tokens=4, stopping_criteria=criteria)) == plain

    def test_refuses_beams(self):
        with pytest.raises(ValueError, match=r"num_beams is 4, but an output can only be streamed with one beam"):
            stream(tiny("gru"), make_tokenizer(), "abc", num_beams=4)
