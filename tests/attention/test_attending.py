"""Attention seen: maps are the model's own, words stand beside them, and what is written can be read."""

import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import pytest
import torch
from helpers.tiny import RNNS, close, tiny
from matplotlib import font_manager, image
from matplotlib.figure import Figure
from transformers import MarianConfig, MarianMTModel

from seqloom import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration, translate
from seqloom.__main__ import main
from seqloom.attention.attend import attend, attention_figure, cross_attention_map
from seqloom.attention.maps import AttentionMaps, draw_map, overview
from seqloom.attention.page import SCALE, attention_page
from seqloom.attention.words import group_words, merge, read_tokens, word_labels
from seqloom.commands.attend import Attend
from seqloom.commands.command import usage
from seqloom.data.tokenization import target_tokenizer, train_tokenizer
from seqloom.figures import fonts
from seqloom.figures.style import save_png
from seqloom.settings.schema import TokenizerSettings

LETTERS = "abcdefghijklmno "  # with the four special tokens the 20 entries of the tiny models
SENTENCE = "abc de fgh"
WITH_ATTENTION = ["rnn-bahdanau", "lstm-luong", "gru-luong-dot", "lstm-luong-fed", "post-norm", "rotary"]
OPTIONS = {"max_new_tokens": 7, "suppress_tokens": [0, 1, 3]}
ENGLISH = "the man's dog isn't here, it cost $3.50 (twice) ..."
KOREAN = '하나님이 모세에게 "말씀하셨다." 그리고 3.5 갔다'
SIZES = {"byte_bpe": (270, 270), "bpe": (50, 45), "unigram": (32, 25), "word": (30, 30), "char": (60, 60)}  # both sides
DEJAVU = font_manager.findfont("DejaVu Sans")


def letters():
    return train_tokenizer([LETTERS], [LETTERS], TokenizerSettings(kind="char", vocab_size=20))


def train(kind):
    source, target = SIZES[kind]
    settings = TokenizerSettings(kind=kind, vocab_size=source, target_vocab_size=target, shared=False)
    return train_tokenizer([ENGLISH] * 3, [KOREAN] * 3, settings)


def each(tokens) -> list[list[int]]:
    """Groups of one token each."""
    return [[index] for index in range(len(tokens))]


def labels(tokenizer, text, *, is_target):
    """Of tokens and of words, and the words' tokens."""
    ids = (tokenizer(text_target=text) if is_target else tokenizer(text))["input_ids"]
    decoded, tokens = read_tokens(tokenizer, ids, is_target=is_target)
    groups = group_words(decoded, tokens)
    return word_labels(decoded, tokens, each(tokens)), word_labels(decoded, tokens, groups), groups


def marian(layers=2, heads=2):
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=20, d_model=16, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, eos_token_id=2,
        bos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None, max_position_embeddings=64, init_std=0.5,
    )  # fmt: skip
    return MarianMTModel(config).eval()


def made_maps(source=("one", "two", "⟨end⟩"), target=("eins", "⟨end⟩"), layers=1, heads=1, **changes) -> AttentionMaps:
    torch.manual_seed(0)
    fields = {
        "source": " ".join(source), "output": " ".join(target), "score": -1.5, "source_labels": list(source),
        "target_labels": list(target), "encoder_self": None,
        "cross": torch.randn(layers, heads, len(target), len(source)).mul(3).softmax(-1),
    }  # fmt: skip
    return AttentionMaps(**fields | changes)


class TestMaps:
    @pytest.mark.parametrize("name", WITH_ATTENTION)
    def test_the_models_own(self, name):
        """As the model returns them for this source and this output; `translate` gives the same."""
        model, tokenizer = tiny(name), letters()
        before = model.config._attn_implementation
        found = attend(model, tokenizer, SENTENCE, words=False, **OPTIONS)
        assert model.config._attn_implementation == before
        hypothesis = translate(model, tokenizer, SENTENCE, output_attentions=True, **OPTIONS)
        assert found.output == hypothesis.text
        assert found.score == pytest.approx(hypothesis.score, abs=1e-4)
        close(found.cross, hypothesis.cross_attentions)

        model.set_attn_implementation("eager")
        ids = tokenizer.convert_tokens_to_ids(hypothesis.target_tokens)
        inputs = tokenizer([SENTENCE], return_tensors="pt")
        sequence = torch.tensor([[model.config.decoder_start_token_id, *ids]])
        with torch.no_grad():
            outputs = model(
                input_ids=inputs["input_ids"],
                decoder_input_ids=sequence[:, :-1],
                output_attentions=True,
                use_cache=False,
            )
        close(found.cross, torch.cat(outputs.cross_attentions))
        if name in RNNS:
            assert found.encoder_self is None
        else:
            close(found.encoder_self, torch.cat(outputs.encoder_attentions))

    def test_luong_by_hand(self):
        """Equation 7 of the paper from the model's parts, decoded step by step."""
        model, tokenizer = tiny("gru-luong-dot"), letters()
        found = attend(model, tokenizer, SENTENCE, target="dab", words=False)
        ids = tokenizer(SENTENCE, return_tensors="pt")["input_ids"]
        encoded = model.model.encoder(ids)
        decoder = model.model.decoder
        state, rows = decoder.first_state(encoded), []
        for token in (model.config.decoder_start_token_id, *tokenizer("dab")["input_ids"][:-1]):
            inputs = decoder.embed_tokens(torch.tensor([[token]]))
            hidden = []
            for index, layer in enumerate(decoder.layers):
                inputs, last = layer.rnn(inputs, state[0][:, index][None].contiguous())
                hidden.append(last[0])
            state = (torch.stack(hidden, dim=1),)
            rows.append((inputs[0, 0] @ encoded.last_hidden_state[0].T).softmax(-1))
        close(found.cross[0, 0], torch.stack(rows).detach())
        assert found.target_labels == ["d", "a", "b", "⟨end⟩"]

    @pytest.mark.parametrize("name", WITH_ATTENTION)
    @pytest.mark.parametrize("words", [True, False])
    def test_rows_add_up_to_one(self, name, words):
        found = attend(tiny(name), letters(), SENTENCE, target="ab c dd", words=words)
        assert found.source_labels == (["abc", "de", "fgh", "⟨end⟩"] if words else [*"abc␣de␣fgh", "⟨end⟩"])
        assert found.target_labels == (["ab", "c", "dd", "⟨end⟩"] if words else [*"ab␣c␣dd", "⟨end⟩"])
        for weights, rows in ((found.cross, found.target_labels), (found.encoder_self, found.source_labels)):
            if weights is not None:
                assert weights.shape[-2:] == (len(rows), len(found.source_labels))
                close(weights.sum(-1), torch.ones(weights.shape[:-1]))

    def test_merged(self):
        """Against sums and means written out."""
        weights = torch.rand(2, 3, 4, 5)
        merged = merge(weights, [[0], [1, 2, 3]], [[0, 1], [2], [3, 4]])
        for row, rows in enumerate(([0], [1, 2, 3])):
            for column, columns in enumerate(([0, 1], [2], [3, 4])):
                cell = sum(weights[..., i, j] for i in rows for j in columns) / len(rows)
                close(merged[..., row, column], cell)

    def test_any_encoder_decoder(self):
        model, tokenizer = marian(), letters()
        assert model.config._attn_implementation == "sdpa"
        found = attend(model, tokenizer, SENTENCE, target="abc")
        assert (found.cross.shape, found.encoder_self.shape) == ((2, 2, 2, 4), (2, 2, 4, 4))
        close(found.cross.sum(-1), torch.ones(2, 2, 2))
        assert model.config._attn_implementation == "sdpa"

    def test_beams(self):
        model, tokenizer = tiny("lstm-luong"), letters()
        options = OPTIONS | {"num_beams": 4, "length_penalty": 0.0}
        outputs = {
            sentence: translate(model, tokenizer, sentence, **options) for sentence in ("ab", "cd e", "fgh", "kl m")
        }
        greedy = {sentence: translate(model, tokenizer, sentence, **OPTIONS) for sentence in outputs}
        assert outputs != greedy  # so that it matters
        for sentence, output in outputs.items():
            assert attend(model, tokenizer, sentence, **options).output == output
            assert attend(model, tokenizer, sentence, num_return_sequences=2, **options).output == output

    def test_beams_with_a_coverage_penalty(self):
        model, tokenizer = tiny("rnn-bahdanau"), letters()
        options = OPTIONS | {"num_beams": 4, "length_penalty": 0.0}
        for sentence in ("cd e", "kl m"):
            output = translate(model, tokenizer, sentence, coverage_penalty=10.0, **options)
            assert output != translate(model, tokenizer, sentence, **options)  # so that it matters
            assert attend(model, tokenizer, sentence, coverage_penalty=10.0, **options).output == output

    def test_forced_target(self):
        model, tokenizer = tiny("post-norm"), letters()
        own = attend(model, tokenizer, SENTENCE, **OPTIONS)
        forced = attend(model, tokenizer, SENTENCE, target="cab")
        assert forced.output == "cab" != own.output
        assert forced.target_labels == ["cab", "⟨end⟩"]
        assert forced.score < own.score  # greedy was likelier

    def test_of_one_head_and_of_all(self):
        maps = made_maps(layers=2, heads=3)
        close(maps.weights(), maps.cross[1].mean(0))
        close(maps.weights(layer=1), maps.cross[0].mean(0))
        close(maps.weights(layer=1, head=3), maps.cross[0, 2])
        rows = maps.cross[0, 2]
        assert maps.alignment(1, 3) == [(int(row.argmax()), float(row.max())) for row in rows]

    def test_plain_values_for_the_report(self):
        model, tokenizer = tiny("post-norm"), letters()
        found = json.loads(json.dumps(cross_attention_map(model, tokenizer, SENTENCE, target="ab c")))
        close(torch.tensor(found["weights"]), attend(model, tokenizer, SENTENCE, target="ab c").cross[-1].mean(0))
        assert found["source_labels"] == ["abc", "de", "fgh", "⟨end⟩"]
        assert found["target_labels"] == ["ab", "c", "⟨end⟩"]

    @pytest.mark.parametrize("is_training", [True, False])
    def test_mode_is_left(self, is_training):
        model = tiny("lstm-luong", dropout=0.5).train(is_training)
        first, second = (attend(model, letters(), SENTENCE, target="ab").cross for _ in range(2))
        assert torch.equal(first, second)
        assert model.training is is_training

    @pytest.mark.parametrize("sentence", ["", "  "])
    def test_refuses_nothing(self, sentence):
        with pytest.raises(ValueError, match="nothing to look at: give a text"):
            attend(tiny("lstm-luong"), letters(), sentence)
        with pytest.raises(ValueError, match="target is empty"):
            attend(tiny("lstm-luong"), letters(), SENTENCE, target=sentence)

    def test_without_attention(self):
        with pytest.raises(ValueError, match=r"no attention.*last state \(16 numbers.*train one with model.attention"):
            attend(tiny("gru"), letters(), SENTENCE, **OPTIONS)

    def test_choices_that_there_are_not(self):
        rnn, transformer, tokenizer = tiny("lstm-luong"), tiny("post-norm"), letters()
        for model, choice, message in (
            (rnn, {"what": "self"}, "no self-attention"),
            (rnn, {"layer": 2}, "layer is 2, but there are layers 1 to 1"),
            (transformer, {"layer": 3}, "layers 1 to 2"),  # of both kinds: the encoder has two
            (transformer, {"what": "cross", "layer": 4}, "layers 1 to 3"),
            (transformer, {"what": "self", "head": 3}, "heads 1 to 2"),
            (transformer, {"head": 0}, "head is 0"),
            (transformer, {"what": "every"}, "it can be all, cross, self"),
        ):
            with pytest.raises(ValueError, match=message):
                attention_figure(model, tokenizer, SENTENCE, target="ab", **choice)


class TestWords:
    @pytest.mark.parametrize("kind", SIZES)
    def test_as_many_labels_as_the_map_has_rows_and_columns(self, kind):
        tokenizer = train(kind)
        config = RnnSeq2SeqConfig(
            vocab_size=len(tokenizer), decoder_vocab_size=len(target_tokenizer(tokenizer)), hidden_size=8,
            embedding_size=8, share_encoder_decoder_embeddings=False,
        )  # fmt: skip
        model = RnnSeq2SeqForConditionalGeneration(config)
        source, target = ENGLISH + " ☃ x", KOREAN
        for words in (True, False):
            found = attend(model, tokenizer, source, target=target, words=words)
            assert found.cross.shape == (1, 1, len(found.target_labels), len(found.source_labels))
            close(found.cross.sum(-1), torch.ones(found.cross.shape[:-1]))
            if not words:
                assert len(found.source_labels) == len(tokenizer(source)["input_ids"])
                assert len(found.target_labels) == len(tokenizer(text_target=target)["input_ids"])
            for label in (*found.source_labels, *found.target_labels):
                assert label.strip()
                assert label.isprintable()
                assert not set(label) & set("Ġ▁Ċ\ufffd")

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram", "char"])
    def test_words_are_the_same_whatever_the_tokens(self, kind):
        tokenizer = train(kind)
        assert labels(tokenizer, ENGLISH, is_target=False)[1] == [
            "the", "man's", "dog", "isn't", "here", ",", "it", "cost", "$", "3.50", "(", "twice", ")", "...", "⟨end⟩",
        ]  # fmt: skip
        assert labels(tokenizer, KOREAN, is_target=True)[1] == [
            "하나님이", "모세에게", '"', "말씀하셨다", '."', "그리고", "3.5", "갔다", "⟨end⟩",
        ]  # fmt: skip

    def test_words_of_a_tokenizer_of_words(self):
        tokens, words, _ = labels(train("word"), ENGLISH, is_target=False)
        assert tokens == words == [*ENGLISH.split(), "⟨end⟩"]

    def test_parts_of_a_character(self):
        """Each byte of a syllable shows the syllable, and on which side the rest of it is."""
        settings = TokenizerSettings(kind="byte_bpe", vocab_size=260)
        tokenizer = train_tokenizer(["a"], ["a"], settings)
        tokens, words, groups = labels(tokenizer, "a 한é", is_target=True)
        assert tokens == ["␣", "a", "␣", "한…", "…한…", "…한", "é…", "…é", "⟨end⟩"]
        assert (words, groups) == (["a", "한é", "⟨end⟩"], [[0, 1], [2, 3, 4, 5, 6, 7], [8]])

    def test_broken_characters(self):
        """What an untrained model may write: bytes that make no character."""
        tokenizer = train_tokenizer(["a"], ["a"], TokenizerSettings(kind="byte_bpe", vocab_size=260))
        ids = tokenizer("한글")["input_ids"]
        for some in (ids[2:], ids[:3], [ids[3], ids[1], ids[1], ids[-1]], ids[1:2] * 5):
            decoded, tokens = read_tokens(tokenizer, some, is_target=True)
            groups = group_words(decoded, tokens)
            assert [index for group in groups for index in group] == list(range(len(some)))
            assert all(word_labels(decoded, tokens, each(tokens)))
            assert all(word_labels(decoded, tokens, groups))

    def test_scripts_without_spaces(self):
        text = "我爱北京 and ここ."
        tokenizer = train_tokenizer([text], [text], TokenizerSettings(kind="char", vocab_size=40))
        assert labels(tokenizer, text, is_target=True)[1] == ["我", "爱", "北", "京", "and", "こ", "こ", ".", "⟨end⟩"]

    def test_unknown_words_are_shown_as_they_were_written(self):
        model, tokenizer = tiny("lstm-luong"), letters()
        found = attend(model, tokenizer, "ab ☃ <s>", target="ab ☃")
        assert found.source_labels == ["ab", "⟨unknown: ☃⟩", "⟨start⟩", "⟨end⟩"] or found.source_labels[1:] == [
            "␣", "⟨unknown: ☃⟩", "␣", "⟨start⟩", "⟨end⟩",
        ]  # fmt: skip
        assert found.target_labels[-2:] == ["⟨unknown⟩", "⟨end⟩"]


class TestFonts:
    def test_own_font_where_it_has_everything(self):
        assert fonts.font_families("Größe ⟨end⟩ ж", files=[]) == (["DejaVu Sans"], "")

    def test_none_has_it(self):
        families, missing = fonts.font_families("a 한 b 글", files=[DEJAVU])
        assert (families, missing) == (["DejaVu Sans"], "한글")
        sentence = fonts.missing_font(missing)
        assert re.search(r"no installed font has Hangul \(한글\).*install .*Nanum.*--font", sentence)
        assert "these characters (🦜)" in fonts.missing_font("🦜")

    def test_the_picture_is_made_all_the_same(self, tmp_path):
        """With one warning, ours, and boxes for what is missing."""
        maps = made_maps(target=("한국어", "⟨end⟩"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure = overview(maps, files=[])
            save_png(figure, tmp_path / "map.png")
        assert [str(warning.message)[:35] for warning in caught] == ["no installed font has Hangul (한국어), d"[:35]]
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["□□□", "⟨end⟩"]

    def test_finds_one(self):
        """Among files of which matplotlib's own list of fonts need not know."""
        file = next((file for file in font_manager.findSystemFonts() if ord("한") in fonts._characters(file)), None)
        if file is None:
            pytest.skip("no font with Hangul is installed")
        families, missing = fonts.font_families("a 한", files=[DEJAVU, file])
        assert missing == ""
        assert families[0] == "DejaVu Sans"
        assert len(families) == 2
        found = font_manager.findfont(families[1], fallback_to_default=False)
        assert ord("한") in fonts._characters(found)
        named = fonts.font_families("a", font=file)[0]
        assert named == [families[1], "DejaVu Sans"]

    def test_the_least_that_covers(self, monkeypatch):
        """Of fonts with some letters each."""
        have = {"x": "αβ", "y": "αβγ", "z": "δ", DEJAVU: "a"}
        monkeypatch.setattr(fonts, "_characters", lambda file: frozenset(map(ord, have[file])))
        monkeypatch.setattr(fonts, "_register", lambda file: f"family {file}")
        assert fonts.font_families("aβγδε", files=["x", "y", "z"]) == (["DejaVu Sans", "family y", "family z"], "ε")

    def test_no_font(self, tmp_path):
        (tmp_path / "font.ttf").write_text("no font")
        for file in (tmp_path / "font.ttf", tmp_path / "none.ttf"):
            with pytest.raises(ValueError, match="no font that can be read: give the file"):
                fonts.font_families("a", font=file)


def assert_nothing_is_cut_off(figure):
    figure.draw_without_rendering()
    whole = figure.bbox
    for panel in figure.axes:
        box = panel.get_tightbbox()
        assert box.x0 >= whole.x0 - 1
        assert box.x1 <= whole.x1 + 1
        assert box.y0 >= whole.y0 - 1
        assert box.y1 <= whole.y1 + 1


class TestPicture:
    def test_words_on_the_axes_and_the_best_ringed(self):
        maps = made_maps(source=("a", "$b$", "c" * 40), target=("x", "y", "z", "⟨end⟩"))
        panel = Figure().subplots()
        image_ = draw_map(panel, maps.source_labels, maps.target_labels, maps.weights())
        assert [label.get_text() for label in panel.get_yticklabels()] == maps.target_labels
        assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "$b$", "c" * 21 + "…"]
        assert not any(label.get_parse_math() for label in panel.get_xticklabels())
        close(torch.tensor(image_.get_array()), maps.weights())
        (rings,) = panel.lines
        assert list(rings.get_xdata()) == maps.weights().argmax(-1).tolist()
        assert list(rings.get_ydata()) == [0, 1, 2, 3]
        panel = Figure().subplots()
        draw_map(panel, maps.source_labels, maps.target_labels, maps.weights().tolist(), mark=False)
        assert not panel.lines
        with pytest.raises(ValueError, match=r"shape \(4, 3\), but there are 3 target and 4 source labels"):
            draw_map(panel, maps.target_labels, maps.source_labels, maps.weights())

    @pytest.mark.parametrize(
        ("layers", "heads", "choice", "expected"),
        [
            (1, 1, {}, 0),
            (1, 4, {}, 4),
            (3, 1, {}, 3),
            (3, 4, {}, 15),
            (6, 8, {}, 54),
            (12, 16, {}, 28),  # the mean of every layer, the heads of the last
            (3, 4, {"layer": 2}, 4),
            (3, 4, {"layer": 2, "head": 1}, 0),
            (3, 4, {"head": 1}, 0),
        ],
    )
    def test_panels(self, layers, heads, choice, expected):
        """The large one with its colour bar, then the small ones; all within the picture."""
        maps = made_maps(layers=layers, heads=heads)
        figure = overview(maps, **choice)
        shown = [panel for panel in figure.axes if panel.images]
        assert len(shown) == 1 + expected
        layer, head = choice.get("layer"), choice.get("head")
        close(torch.tensor(shown[0].images[0].get_array()), maps.weights("cross", layer, head))
        if (layers, heads) == (3, 4) and not choice:
            expected = torch.cat([torch.cat([some.mean(0, keepdim=True), some]) for some in maps.cross])
            close(torch.stack([torch.tensor(panel.images[0].get_array()) for panel in shown[1:]]), expected)
        if choice == {"layer": 2}:
            close(torch.stack([torch.tensor(panel.images[0].get_array()) for panel in shown[1:]]), maps.cross[1])
        assert_nothing_is_cut_off(figure)

    @pytest.mark.parametrize("last", ["w", "straightforwardnesses"])
    def test_wide_ones_have_room_at_the_right(self, last):
        """For the colour bar and its numbers, and for a last word that leans out of the map."""
        maps = made_maps(source=[*(f"w{i}" for i in range(39)), last], target=("x", "y", "z"))
        assert_nothing_is_cut_off(overview(maps))

    def test_both_kinds(self):
        maps = made_maps(layers=2, heads=2, encoder_self=torch.rand(3, 4, 3, 3).softmax(-1))
        for what, count in (("all", 1 + 6 + 1 + 15), ("cross", 7), ("self", 16)):
            shown = [panel for panel in overview(maps, what=what).axes if panel.images]
            assert len(shown) == count
            close(
                torch.tensor(shown[-1].images[0].get_array()),
                (maps.cross if what == "cross" else maps.encoder_self)[-1, -1],
            )

    def test_long_ones_stay_within_reason(self):
        maps = made_maps(source=[f"word{i}" for i in range(150)], target=[f"wort{i}" for i in range(200)])
        assert max(overview(maps).get_size_inches()) < 40

    def test_made_of_a_model(self, tmp_path):
        save_png(attention_figure(tiny("post-norm"), letters(), SENTENCE, target="ab c"), tmp_path / "map.png")
        pixels = image.imread(tmp_path / "map.png")
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 300
        assert len({tuple(pixel) for pixel in pixels[::3, ::3, :3].reshape(-1, 3).tolist()}) > 20


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes, the data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag != "script" else f"script {dict(attributes).get('type', '')}".strip()

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & <!-- {title} \u2028"


class TestPage:
    def test_holds_the_maps(self):
        maps = made_maps(layers=2, heads=3, encoder_self=torch.rand(2, 3, 3, 3).softmax(-1))
        page = Page(attention_page([maps, made_maps(source=("more", "⟨end⟩"))], title="a model"))
        data = json.loads(page.texts["script application/json"])
        assert [one["source"] for one in data["sentences"]] == ["one two ⟨end⟩", "more ⟨end⟩"]
        first = data["sentences"][0]
        assert (first["sourceLabels"], first["targetLabels"]) == (maps.source_labels, maps.target_labels)
        close(torch.tensor(first["cross"]) / SCALE, maps.cross, 1e-4)
        close(torch.tensor(first["self"]) / SCALE, maps.encoder_self, 1e-4)
        assert data["sentences"][1]["self"] is None
        assert page.texts["title"] == "Attention of a model"

    def test_texts_stay_texts(self):
        maps = made_maps(source=(EVIL, "⟨end⟩"), target=(EVIL,))
        plain, evil = attention_page([made_maps()]), attention_page([maps], title=EVIL)
        page = Page(evil)
        assert page.tags == Page(plain).tags  # not one more
        assert json.loads(page.texts["script application/json"])["sentences"][0]["output"] == EVIL
        assert page.texts["title"] == f"Attention of {EVIL}"

    def test_needs_nothing_from_elsewhere(self):
        text = attention_page([made_maps()])
        page = Page(text)
        assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\(|innerHTML", text)
        assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
        assert not any("src" in attributes or "href" in attributes for _, attributes in page.tags)
        assert ("html", {"lang": "en"}) in page.tags
        assert ("meta", {"charset": "utf-8"}) in page.tags
        assert "prefers-color-scheme: dark" in text

    def test_what_is_asked_for(self):
        maps = made_maps(encoder_self=torch.rand(1, 1, 3, 3))
        for what, has in (("all", (True, True)), ("cross", (True, False)), ("self", (False, True))):
            data = json.loads(Page(attention_page([maps], what=what)).texts["script application/json"])
            assert tuple(data["sentences"][0][kind] is not None for kind in ("cross", "self")) == has

    @pytest.mark.slow
    def test_in_a_browser(self, tmp_path):
        """The second target is chosen by the address; what it looked at is shaded and says its weight."""
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if browser is None:
            pytest.skip("there is no Chromium")
        maps = made_maps(source=("one", EVIL, "⟨end⟩"), target=("eins", "zwei", "⟨end⟩"), layers=2, heads=2)
        (tmp_path / "page.html").write_text(attention_page([maps]), encoding="utf-8")
        words = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", f"file://{tmp_path}/page.html#t2",
        ]  # fmt: skip
        dom = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
        shown = re.findall(r'<button[^>]*data-key="(\w+)"[^>]*>.*?<small>(.*?)</small>', dom, flags=re.DOTALL)
        weights = [f"{weight:.2f}" for weight in maps.weights()[1].tolist()]
        assert shown == [*((f"s{i}", weight) for i, weight in enumerate(weights)), *((f"t{i}", "") for i in range(3))]
        assert re.findall(r'data-key="(t\d)" aria-pressed="true" class="chosen"', dom) == ["t1"]
        assert "<img" not in dom
        assert dom.count("<td") == 1 + 9


class TestCommand:
    @pytest.fixture(scope="class")
    def folders(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("models")
        for name in ("lstm-luong", "post-norm", "gru"):
            model = tiny(name)
            model.generation_config.update(**OPTIONS)
            model.save_pretrained(folder / name)
            letters().save_pretrained(folder / name)
        return folder

    @pytest.mark.parametrize("name", ["lstm-luong", "post-norm"])
    def test_draws_and_prints(self, folders, name, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["attend", str(folders / name), SENTENCE, "--html", "map.html", "--output=map.png"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map.html", "map.png"]
        found = attend(tiny(name), letters(), SENTENCE, **OPTIONS)
        printed = capsys.readouterr().out
        assert f"{SENTENCE}\n→ {found.output} " in printed
        for label, (best, weight) in zip(found.target_labels, found.alignment(), strict=True):
            assert re.search(
                rf"^{re.escape(label)} *← {found.source_labels[best]} \({weight:.2f}\)$", printed, re.MULTILINE
            )
        assert printed.endswith("maps are in map.png, map.html\n")

    def test_without_options(self, folders, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["attend", str(folders / "lstm-luong"), SENTENCE]) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["attention.png"]
        assert main(["attend", str(folders / "lstm-luong"), SENTENCE, "--html", "a.html"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "attention.png"]

    def test_several_sentences(self, folders, tmp_path):
        words = ["attend", str(folders / "lstm-luong"), "abc", "de", "--output", f"{tmp_path}/map.png"]
        assert main([*words, "--html", f"{tmp_path}/map.html"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map-1.png", "map-2.png", "map.html"]
        data = json.loads(Page((tmp_path / "map.html").read_text("utf-8")).texts["script application/json"])
        assert [one["source"] for one in data["sentences"]] == ["abc", "de"]

    def test_options_reach_the_model(self, folders, tmp_path):
        words = ["attend", str(folders / "post-norm"), SENTENCE, "--html", f"{tmp_path}/map.html", "--overwrite"]

        def data(*more):
            assert main([*words, *more]) == 0
            return json.loads(Page((tmp_path / "map.html").read_text("utf-8")).texts["script application/json"])

        assert data("--target", "ca b")["sentences"][0]["targetLabels"] == ["ca", "b", "⟨end⟩"]
        assert data("--target", "ca b", "--tokens")["sentences"][0]["targetLabels"] == [*"ca␣b", "⟨end⟩"]
        assert data("--what", "self")["sentences"][0]["cross"] is None
        assert (data("--layer", "2", "--head", "1")["layer"], data("--head=2")["head"]) == (2, 2)
        beams = translate(tiny("post-norm"), letters(), SENTENCE, num_beams=3, **OPTIONS)
        assert data("--num_beams", "3")["sentences"][0]["output"] == beams
        assert len(data("--max_new_tokens", "2", "--tokens")["sentences"][0]["targetLabels"]) == 2

    def test_never_overwrites_unasked(self, folders, tmp_path, capsys):
        for option, name in (("--output", "map.png"), ("--html", "map.html")):
            file = tmp_path / name
            words = ["attend", str(folders / "lstm-luong"), SENTENCE, option, str(file)]
            file.write_text("mine")
            assert main(words) == 1
            assert file.read_text() == "mine"
            assert f"{name} is there already; give --overwrite" in capsys.readouterr().err
            assert main([*words, "--overwrite"]) == 0
            assert file.read_bytes() != b"mine"
        (tmp_path / "map-2.png").write_text("mine")  # the second of two: nothing is written
        assert main(["attend", str(folders / "gru"), "a", "b", "--output", f"{tmp_path}/map.png"]) == 1
        assert "map-2.png is there already" in capsys.readouterr().err
        assert not (tmp_path / "map-1.png").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["{gru}", "ab"], "no attention, so there is no map"),
            (["{luong}"], "a model and a sentence are needed"),
            (["{luong}", " "], "nothing to look at"),
            (["{luong}", "ab", "--output", "map.jpg"], "--output is map.jpg: give a name that ends in .png."),
            (["{luong}", "ab", "--html", "map.pdf"], "ends in .html"),
            (["{luong}", "ab", "--output", "none/map.png"], "no folder none to write map.png to; make it first"),
            (["{luong}", "ab", "--what", "every"], "--what is 'every'; it can be all, cross, self"),
            (["{luong}", "ab", "--what", "self"], "no self-attention"),
            (["{luong}", "ab", "--layer", "two"], "--layer is 'two'; it must be a whole number, 1 or more"),
            (["{luong}", "ab", "--layer", "2"], "there are layers 1 to 1"),
            (["{luong}", "ab", "cd", "--target", "a"], "--target is the output of one sentence, but 2 are given"),
            (["{luong}", "ab", "--target", "a", "--num_beams", "2"], "needs no search, but num_beams is given too"),
            (["{luong}", "ab", "--output"], "--output needs a value"),
            (["{luong}", "ab", "--font", "none.ttf"], "none.ttf is no font that can be read"),
            (["{luong}", "ab", "--beams", "3"], "beams"),
            (["./none", "ab"], "there is no folder ./none"),
        ],
    )
    def test_refuses(self, folders, words, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        paths = {"gru": folders / "gru", "luong": folders / "lstm-luong"}
        assert main(["attend", *(word.format(**paths) for word in words)]) == 1
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_help(self, capsys):
        assert main(["attend", "--help"]) == 0
        assert "usage: seqloom attend MODEL" in capsys.readouterr().out
        assert main(["attend"]) == 2
        assert usage(Attend) in " ".join(capsys.readouterr().out.split())

    def test_says_what_cannot_be_drawn(self, folders, tmp_path, monkeypatch, capsys):
        """Once, and draws the rest."""
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: [])
        words = ["attend", str(folders / "lstm-luong"), "ab 한글 c", "de 한글", "--output", f"{tmp_path}/map.png"]
        assert main(words) == 0
        assert capsys.readouterr().err.count("warning: no installed font has Hangul (한글)") == 1
        assert len(list(tmp_path.iterdir())) == 2
