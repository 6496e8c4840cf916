"""Segmentations drawn anew: by the tokenizers' own merges and scores, and in a run."""

import collections
import itertools
import math
import pickle
import random
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from helpers.killed import assert_same_run, kill_and_resume, refused
from helpers.runs import (
    run,
)
from tokenizers import Tokenizer, models

from seqloom.data import subwords
from seqloom.data.encoding import encode
from seqloom.data.pairs import load_pairs
from seqloom.data.tokenization import load_tokenizer, train_tokenizer
from seqloom.settings.schema import DataSettings, TokenizerSettings
from seqloom.training import ending, loop

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def random_texts(count: int, seed: int = 3) -> list[str]:
    """Words of few letters, so that merges abound, with signs, digits, blanks and what is rare."""
    words = random.Random(seed)
    rare = ["日本語", "é", "e\u0301", "  ", "\n", "12.5", "...", "don't", "\u3000", "🙂", "aaaaaaa"]
    vocabulary = ["".join(words.choices("etaoins", k=words.randint(1, 9))) for _ in range(150)]
    return ["", " ", "a", " a ", *(
        " ".join(words.choices([*vocabulary, *rare], weights=[*[1] * 150, *[2] * len(rare)], k=words.randint(1, 9)))
        for _ in range(count)
    )]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers():
    """One of each kind, trained on texts without some of the rare characters."""
    texts = [text for text in random_texts(400) if not set(text) & set("日🙂")]
    sizes = {"byte_bpe": 400, "bpe": 200, "unigram": 90}
    return {
        kind: train_tokenizer(texts, [], TokenizerSettings(kind=kind, vocab_size=size)) for kind, size in sizes.items()
    }


def numbers(*seed: int):
    return subwords._uniform(seed)


class TestSegmentation:
    """seqloom.subwords over the tokenizers' own merges and scores"""

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram"])
    def test_without_chance_it_is_the_tokenizers(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        ours = subwords.Subwords(tokenizer.backend_tokenizer, dropout=0.0, alpha=1e4)
        texts = [*random_texts(1500, seed=4), "a </s> b", "<pad>", "x<unk>"]
        found, expected = [ours.encode(text, numbers(0)) for text in texts], tokenizer(texts).input_ids
        if kind == "unigram":  # equals in likelihood may fall either way: the same tokens, in another order
            differ = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
            assert len(differ) < 0.1 * len(texts)
            assert all(sorted(one) == sorted(other) for one, other in differ)
        else:
            assert found == expected

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe"])
    def test_all_dropped_leaves_characters(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        ours = subwords.Subwords(tokenizer.backend_tokenizer, dropout=1.0)
        for text in ("seat on it", "a  s", "tete"):
            tokens = tokenizer.convert_ids_to_tokens(ours.encode(text, numbers(0)))
            blank = {"byte_bpe": "Ġ", "bpe": "▁"}[kind]
            assert tokens == [*(blank + text.replace(" ", blank)), "</s>"]
        if kind == "byte_bpe":
            assert len(ours.encode("日é🙂", numbers(0))) == 1 + len("日é🙂".encode()) + 1

    @pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram"])
    def test_the_text_comes_back(self, tokenizers, kind):
        tokenizer = tokenizers[kind]
        ours = subwords.Subwords(tokenizer.backend_tokenizer, dropout=0.3, alpha=0.3)
        texts = [text for text in random_texts(300, seed=5) if kind == "byte_bpe" or not set(text) & set("日本語🙂")]
        segmented = [ours.encode(text, numbers(row)) for row, text in enumerate(texts)]
        expected = tokenizer(texts).input_ids
        assert tokenizer.batch_decode(segmented, skip_special_tokens=True) == tokenizer.batch_decode(
            expected, skip_special_tokens=True
        )
        assert sum(a != b for a, b in zip(segmented, expected, strict=True)) > len(texts) / 2

    def test_share_of_merges(self):
        """A piece of two characters and one merge, and one of three: by the paper's algorithm, counted by hand."""
        model = models.BPE({"</s>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6},
                           [("a", "b"), ("b", "c"), ("ab", "c")])  # fmt: skip
        p, count = 0.3, 20_000
        ours = subwords.Subwords(Tokenizer(model), dropout=p)
        uniform = numbers(1)
        pairs = [len(ours.encode("ab", uniform)) for _ in range(count)]
        assert abs(pairs.count(2) / count - p) < 4 * math.sqrt(p * (1 - p) / count)
        found = [tuple(ours.encode("abc", uniform)) for _ in range(count)]
        q = 1 - p
        expected = {(6,): q * q, (4, 3): q * p, (1, 5): p * q, (1, 2, 3): p * p}
        assert {*found} == {*expected}
        for tokens, share in expected.items():
            assert abs(found.count(tokens) / count - share) < 4 * math.sqrt(share * (1 - share) / count)

    @pytest.mark.parametrize("alpha", [0.2, 1.0])
    def test_unigram_shares_are_the_probabilities(self, alpha):
        """Against all segmentations of a short word, one with an unknown character among them."""
        scores = {"<unk>": 0.0, "a": -2.0, "b": -2.5, "ab": -3.0, "ba": -3.5, "aba": -5.0, "bab": -6.0, "abab": -7.0}
        tokenizer = Tokenizer(models.Unigram([*scores.items()], unk_id=0))
        ours, word = subwords.Subwords(tokenizer, alpha=alpha), "ababab"

        def segmentations(rest: str):
            if not rest:
                yield ()
            for end in range(1, len(rest) + 1):
                if rest[:end] in scores:
                    yield from ((rest[:end], *others) for others in segmentations(rest[end:]))

        chances = {tokens: math.exp(alpha * sum(map(scores.get, tokens))) for tokens in segmentations(word)}
        assert len(chances) > 12
        count, total, uniform, ids = 20_000, sum(chances.values()), numbers(2), {t: i for i, t in enumerate(scores)}
        found = collections.Counter(tuple(ours.encode(word, uniform)) for _ in range(count))
        expected = {tuple(map(ids.get, tokens)): count * chance / total for tokens, chance in chances.items()}
        assert found.keys() <= expected.keys()
        chi_square = sum((found[tokens] - share) ** 2 / share for tokens, share in expected.items())
        freedom = len(expected) - 1
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
        assert (
            ours.encode("axxb", uniform).count(0) == 1
        )  # unknown characters in a row are one token, as in the library

    def test_the_same_of_a_seed_epoch_and_row(self, tokenizers):
        settings = TokenizerSettings(bpe_dropout=0.5)
        text, drawn = "toast sat neat on tea", set()
        for seed, epoch, row in itertools.product((1, 2), (0, 1), (0, 1)):
            first, again = (
                subwords.Sampler(tokenizers["byte_bpe"], settings, seed, epoch)(text, text, row) for _ in range(2)
            )
            assert first == again
            drawn |= {tuple(side) for side in first}
        assert len(drawn) == 16  # of the sides too

    @pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
    def test_special_tokens_that_the_text_spells_out_are_text(self, tokenizers, kind):
        settings = TokenizerSettings(bpe_dropout=0.5, sampling_alpha=0.1)
        sampler = pickle.loads(pickle.dumps(subwords.Sampler(tokenizers[kind], settings, 1, 0)))
        drawn = {tuple(sampler("seat </s> on it", "", row)[0]) for row in range(20)}
        assert len(drawn) > 1
        for ids in drawn:
            assert ids.index(2) == len(ids) - 1
            if kind == "byte_bpe":  # the other one lacks the signs
                assert tokenizers[kind].decode(ids, skip_special_tokens=True) == "seat </s> on it"

    def test_refusals(self, tokenizers):
        for model, message in (
            (models.BPE({"a": 0, "##b": 1}, [], continuing_subword_prefix="##"), "continuing_subword_prefix '##'"),
            (models.BPE({"a": 0}, [], byte_fallback=True), "byte_fallback True"),
            (models.BPE({"a": 0}, [], dropout=0.1), "dropout 0.1"),
            (models.WordLevel({"a": 0}, unk_token="a"), "not from WordLevel"),
        ):
            with pytest.raises(ValueError, match=message):
                subwords.Subwords(Tokenizer(model))
        with pytest.raises(ValueError, match="which the run's tokenizer is not"):
            _ = subwords.Sampler(tokenizers["bpe"], TokenizerSettings(sampling_alpha=0.1), 1, 0).sides


class TestSubwordRegularisation:
    """tokenizer.bpe_dropout and tokenizer.sampling_alpha in a run"""

    KINDS = {
        "byte_bpe": {"kind": "byte_bpe", "vocab_size": 290, "bpe_dropout": 0.3},
        "unigram": {"kind": "unigram", "vocab_size": 30, "sampling_alpha": 0.3},
        "a pair": {"kind": "bpe", "vocab_size": 30, "shared": False, "target_kind": "char", "target_vocab_size": 20,
                   "bpe_dropout": 0.3},
    }  # fmt: skip

    @pytest.fixture
    def read(self, monkeypatch):
        """Every update's pairs, and those of the validations, by (epoch, index)."""
        trained, validated = {}, []
        original, validate = loop.make_update, loop.validate

        def spy(run, position):
            trained[position.epoch, position.index] = [
                (tuple(x), tuple(y))
                for batch in position.micro_batches
                for x, y in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
            ]
            return original(run, position)

        def see(run):
            positions = run.validation_stream.epoch(0)
            validated.append([batch["input_ids"].tolist() for p in positions for batch in p.micro_batches])
            return validate(run)

        monkeypatch.setattr(loop, "make_update", spy)
        for module in (loop, ending):
            monkeypatch.setattr(module, "validate", see)
        return trained, validated

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", list(KINDS))
    def test_anew_in_every_epoch(self, tmp_path, data, read, kind):
        trained, validated = read
        record = run(tmp_path, data, tokenizer=self.KINDS[kind], training={"max_steps": None, "num_train_epochs": 3})
        tokenizer = load_tokenizer(tmp_path / "run")
        pairs = list(zip(*(Path(path).read_text().splitlines() for path in data["few"]), strict=True))
        expected = sorted(pairs)
        epochs = collections.defaultdict(list)
        for (epoch, _), rows in sorted(trained.items()):
            epochs[epoch] += rows
        whole = {epoch: rows for epoch, rows in epochs.items() if len(rows) == len(pairs)}
        assert {0, 1} <= {*whole}
        ids = {}
        for epoch, rows in whole.items():
            sources = tokenizer.batch_decode(
                [x for x, _ in rows], skip_special_tokens=True,
                **({"use_source_tokenizer": True} if kind == "a pair" else {}),
            )  # fmt: skip
            targets = tokenizer.batch_decode([[max(i, 0) for i in y] for _, y in rows], skip_special_tokens=True)
            assert sorted(zip(sources, targets, strict=True)) == expected
            ids[epoch] = {source: [i for i in x if i] for source, (x, _) in zip(sources, rows, strict=True)}
        assert sum(ids[0][source] != ids[1][source] for source in ids[0]) > 4
        own = {source: tokenizer(source).input_ids for source in ids[0]}
        assert sum(ids[0][source] != own[source] for source in own) > 4
        if kind == "a pair":  # its target is made of characters, which nothing is for
            labels = [[i for i in y if i >= 0] for _, y in whole[0]]
            assert sorted(labels) == sorted(tokenizer(text_target=[target for _, target in pairs]).input_ids)
        # Validation pairs keep the tokenizer's own segmentation.
        sources = Path(data["validation"][0]).read_text().splitlines()
        for seen in validated:
            rows = [[i for i in row if i] for batch in seen for row in batch]
            assert sorted(rows) == sorted(tokenizer(sources).input_ids)
        assert record["data"]["train"].startswith("60 of 60 pairs kept")

    @pytest.mark.slow
    @pytest.mark.parametrize(("kind", "streaming"), [("byte_bpe", False), ("unigram", True)])
    def test_goes_on_after_a_kill(self, tmp_path, data, monkeypatch, kind, streaming):
        stream = {"streaming": True, "shuffle_buffer": 37} if streaming else {}
        changes = {"tokenizer": self.KINDS[kind], "data": stream,
                   "training": {"max_steps": 12, "batch_tokens": 120}}  # fmt: skip
        if kind == "unigram":  # its trainer does not give the same twice
            words = [text for path in data["few"] for text in Path(path).read_text().splitlines()]
            train_tokenizer(words, words, TokenizerSettings(kind=kind, vocab_size=30)).save_pretrained(tmp_path / "t")
            changes["tokenizer"] = {"path": str(tmp_path / "t"), "sampling_alpha": 0.3}
        record = run(tmp_path / "whole", data, **changes)
        AcceleratorState._reset_state(reset_partial_state=True)
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 8, **changes)
        assert record["progress"]["epoch"] >= 1
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        changes["tokenizer"] = {**changes["tokenizer"], "bpe_dropout": 0.2}
        with pytest.raises(ValueError, match="another tokenizer section"):
            run(tmp_path / "whole", data, resume=True, **changes)

    @pytest.mark.slow
    def test_the_cache_and_other_processes(self, data, tokenizers):
        """An epoch's encoding is found again, after use too; and is the same from several processes."""
        fields = {"train_files": data["few"], "validation_files": data["validation"]}
        pairs = load_pairs(DataSettings(**fields), 1).splits["train"]
        files, rows = [], []
        for epoch, num_proc in ((0, None), (1, None), (0, None), (0, 2)):
            sampler = subwords.Sampler(tokenizers["bpe"], TokenizerSettings(bpe_dropout=0.5), 1, epoch)
            settings = DataSettings(**fields, num_proc=num_proc)
            encoded, _ = encode(pairs, tokenizers["bpe"], settings, sampler=sampler)
            files.append([file["filename"] for file in encoded.cache_files])
            rows.append(encoded[:])
        assert files[0] == files[2] != files[1]
        assert rows[0] == rows[2] == rows[3] != rows[1]

    @pytest.mark.slow
    def test_pairs_too_long_when_drawn_keep_their_own(self, tmp_path, data, read):
        """Every epoch has the same pairs, and each fits the limits and the batch."""
        trained, _ = read
        options = {"data": {"max_source_length": 3, "max_target_length": None},
                   "tokenizer": {"kind": "byte_bpe", "vocab_size": 270, "bpe_dropout": 0.9},
                   "training": {"batch_tokens": 6, "max_steps": None, "num_train_epochs": 1,
                                "eval_steps": None}}  # fmt: skip
        plain = {**options, "tokenizer": {**options["tokenizer"], "bpe_dropout": 0.0}}
        lengths, kept = {}, {}
        for name, changes in (("plain", plain), ("drawn", options)):
            trained.clear()
            AcceleratorState._reset_state(reset_partial_state=True)
            kept[name] = run(tmp_path / name, data, **changes)["data"]["train"]
            lengths[name] = sorted(sum(i != 0 for i in x) for rows in trained.values() for x, _ in rows)
        assert kept["plain"] == kept["drawn"]
        assert "and 0 that are too long" not in kept["plain"]
        assert max(lengths["drawn"]) == 3
        assert len(lengths["drawn"]) == len(lengths["plain"]) > 30
        assert sum(lengths["drawn"]) > sum(lengths["plain"])

    def test_refusals(self, tmp_path, data):
        refused(tmp_path, data, "bpe_dropout is 1.5; it must be between", tokenizer={"bpe_dropout": 1.5})
        refused(tmp_path, data, "sampling_alpha is 0.0; it must be more", tokenizer={"sampling_alpha": 0})
        refused(tmp_path, data, "bpe_dropout is 0.1, but tokenizer.kind is char", tokenizer={"bpe_dropout": 0.1})
        refused(tmp_path, data, "sampling_alpha is 0.1, but tokenizer.kind is bpe",
                tokenizer={"kind": "bpe", "sampling_alpha": 0.1})  # fmt: skip
