"""Maps are the model's own, of any model with attention, of what it says and of what it is made to say."""

import json

import pytest
import torch
from helpers.attention import OPTIONS, SENTENCE, letters, made_maps
from helpers.tiny import RNNS, close, tiny
from transformers import MarianConfig, MarianMTModel

from seqloom import translate
from seqloom.attention.attend import attend, attention_figure, cross_attention_map
from seqloom.attention.words import merge

WITH_ATTENTION = [
    "rnn-bahdanau", "lstm-luong", "gru-luong-dot", "lstm-luong-fed", "hybrid", "post-norm", "rotary", "relative",
]  # fmt: skip


def marian(layers=2, heads=2):
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=20, d_model=16, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, eos_token_id=2,
        bos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None, max_position_embeddings=64, init_std=0.5,
    )  # fmt: skip
    return MarianMTModel(config).eval()


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

    @pytest.mark.parametrize(
        ("source", "target", "labels", "by_tokens"),
        [
            ("abc", "ab c", (["a", "b", "c", "⟨end⟩"], ["ab", "c", "⟨end⟩"]), ("source",)),
            ("ab c", "abc", (["ab", "c", "⟨end⟩"], ["a", "b", "c", "⟨end⟩"]), ("output",)),
            ("abc", "ab", ([*"abc", "⟨end⟩"], [*"ab", "⟨end⟩"]), ("output", "source")),
            ("a", "b", (["a", "⟨end⟩"], ["b", "⟨end⟩"]), ()),
        ],
    )
    def test_a_single_word_shows_its_tokens(self, source, target, labels, by_tokens):
        """Its one column would say nothing; the other side keeps its words."""
        found = attend(tiny("lstm-luong"), letters(), source, target=target)
        assert (found.source_labels, found.target_labels) == labels
        assert found.by_tokens == by_tokens
        assert found.cross.shape[-2:] == (len(labels[1]), len(labels[0]))

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
        assert (found.cross.shape, found.encoder_self.shape) == ((2, 2, 4, 4), (2, 2, 4, 4))
        close(found.cross.sum(-1), torch.ones(2, 2, 4))
        assert model.config._attn_implementation == "sdpa"

    @pytest.mark.slow
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
        assert forced.target_labels == [*"cab", "⟨end⟩"]
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
