"""Labels of tokens and of words: as many as the map has rows and columns, whatever the tokenizer."""

import pytest
import torch
from helpers.attention import letters
from helpers.tiny import close, tiny

from seqloom import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration
from seqloom.attention.attend import attend
from seqloom.attention.words import group_words, read_tokens, word_labels
from seqloom.data.tokenization import target_tokenizer, train_tokenizer
from seqloom.settings.schema import TokenizerSettings

ENGLISH = "the man's dog isn't here, it cost $3.50 (twice) ..."


KOREAN = '하나님이 모세에게 "말씀하셨다." 그리고 3.5 갔다'


SIZES = {"byte_bpe": (270, 270), "bpe": (50, 45), "unigram": (32, 25), "word": (30, 30), "char": (60, 60)}  # both sides


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
        tokenizer.split_special_tokens = False  # as others have it, whose texts may hold special tokens
        found = attend(model, tokenizer, "ab ☃ <s>", target="ab ☃")
        assert found.source_labels == ["ab", "⟨unknown: ☃⟩", "⟨start⟩", "⟨end⟩"] or found.source_labels[1:] == [
            "␣", "⟨unknown: ☃⟩", "␣", "⟨start⟩", "⟨end⟩",
        ]  # fmt: skip
        assert found.target_labels[-2:] == ["⟨unknown⟩", "⟨end⟩"]
