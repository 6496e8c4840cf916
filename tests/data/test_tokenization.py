"""Text comes back from every tokenizer as its kind promises, also after saving, in a pair, and without seqloom."""

import json
import os
import pickle
import subprocess
import sys
import unicodedata
from types import SimpleNamespace

import pytest
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from seqloom.data.tokenization import check_matches, load_tokenizer, target_tokenizer, train_tokenizer
from seqloom.modeling import CONFIG_CLASSES
from seqloom.settings.schema import TokenizerSettings

KINDS = ("byte_bpe", "bpe", "unigram", "word", "char")
SIZES = {"byte_bpe": 300, "bpe": 120, "unigram": 70, "word": 8000, "char": 8000}
SOURCES = [
    "나는 오늘 학교에 가지 않았습니다 .",
    "나는 오늘 친구를 만났습니다 !",
    "Größere Bären fräßen süße Äpfel 🍎👍🏽 in München .",
    "Die Bären mögen Äpfel , sagt man in München .",
    "Hallo , Welt .",
] * 3
TARGETS = [
    "I did not go to school today .",
    "I met a friend today !",
    "It's 3 o'clock , said the bears ; they like apples .",
] * 3


def train(kind="byte_bpe", sources=SOURCES, targets=TARGETS, **settings):
    return train_tokenizer(
        iter(sources), iter(targets), TokenizerSettings(kind=kind, **{"vocab_size": SIZES[kind], **settings})
    )


def there_and_back(tokenizer, text):
    return tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def pair():
    return train("byte_bpe", shared=False, target_kind="word", target_vocab_size=25)


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back(kind):
    tokenizer = train(kind)
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<s>", "</s>", "<unk>")] == [0, 1, 2, 3]
    for text in {*SOURCES, *TARGETS}:
        ids = tokenizer(text).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert not {0, 1, 3} & set(ids)
        assert there_and_back(tokenizer, text) == text
    spaced = "Welt  .   Hallo ,  school"
    assert there_and_back(tokenizer, spaced) == (" ".join(spaced.split()) if kind == "word" else spaced)
    assert tokenizer("Hallo", "Welt").input_ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    "text", [" ", "  two before", "after  ", "a\tb\n\n c", "☃ नमस्ते 日本語", "👩‍👩‍👧", "don't’s", "\x00"]
)
def test_bytes_lose_nothing(text):
    assert there_and_back(train("byte_bpe"), text) == text


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path):
    tokenizer = train(kind)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded(SOURCES).input_ids == tokenizer(SOURCES).input_ids
        assert there_and_back(loaded, TARGETS[0]) == TARGETS[0]


@pytest.mark.slow
def test_same_data_same_tokenizer():
    script = """
import json, sys
from seqloom.settings.schema import TokenizerSettings
from seqloom.data.tokenization import train_tokenizer
for kind, size, texts in json.load(sys.stdin):
    tokenizer = train_tokenizer(texts, texts, TokenizerSettings(kind=kind, vocab_size=size))
    print(json.dumps(tokenizer.backend_tokenizer.to_str()))
"""
    kinds = [kind for kind in KINDS if kind != "unigram"]  # the one exception: see the module
    work = json.dumps([(kind, SIZES[kind], SOURCES) for kind in kinds])
    done = subprocess.run([sys.executable, "-c", script], input=work, capture_output=True, text=True, check=True)
    for kind, other in zip(kinds, done.stdout.splitlines(), strict=True):  # hash seeds differ from process to process
        assert json.loads(other) == train(kind, SOURCES, SOURCES).backend_tokenizer.to_str(), kind


def test_normalisation():
    apart = unicodedata.normalize("NFD", "Größere Bären ﬁ")
    assert there_and_back(train(), apart) == "Größere Bären ﬁ"
    assert there_and_back(train(normalization="nfkc", lowercase=True), apart) == "größere bären fi"
    assert there_and_back(train(normalization="none"), apart) == apart


def test_sizes_are_bounds_for_words_and_characters():
    assert len(train("word", vocab_size=10)) == len(train("char", vocab_size=10)) == 10
    tokenizer = train("word", ["a a b"], ["a"], min_frequency=2)
    assert tokenizer.tokenize("a b") == ["a", "<unk>"]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_that_the_text_spells_out_are_text(kind, shared, tmp_path):
    spelt = ["a <unk> b </s> <pad>", "</s>", "<s> a</s>b <unk><unk> </s", "\u2060</s> \u2060 b"]
    tokenizer = train(kind, [*SOURCES, *spelt * 50], [*SOURCES, *spelt * 50], shared=shared)
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<s>", "</s>", "<unk>")] == [0, 1, 2, 3]
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), load_tokenizer(tmp_path)):
        encoded = one(spelt, text_target=spelt)
        for text, ids, labels in zip(spelt, encoded.input_ids, encoded.labels, strict=True):
            for side in (ids, labels):
                assert [index for index in side if index < 4] == [2]
                assert side[-1] == 2
            assert one.decode(labels, skip_special_tokens=True) == text
            assert one.decode([1, *labels[:-1], 0]) != text  # the special tokens themselves are still written
            assert there_and_back(target_tokenizer(one), text) == text


def test_words_in_lower_case_spell_special_tokens_too():
    tokenizer = train("word", ["A </S> B"], ["a"], lowercase=True)
    assert there_and_back(tokenizer, "a </S> b") == "a </s> b"
    assert tokenizer("a </S> b").input_ids.count(2) == 1


def test_a_tokenizer_that_took_special_tokens_for_themselves_still_does(tmp_path):
    """As those were saved that had no word of it in their settings; what is encoded by the one is not the other's."""
    tokenizer = train("byte_bpe")
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    assert config.pop("split_special_tokens") is True
    file.write_text(json.dumps(config))
    before = load_tokenizer(tmp_path)
    assert before("I </s>").input_ids[-2:] == [2, 2]
    assert before(SOURCES).input_ids == tokenizer(SOURCES).input_ids
    assert Hasher.hash(before) != Hasher.hash(tokenizer)


def test_reads_no_more_than_it_needs():
    def endless():
        yield from SOURCES
        raise AssertionError("read on")

    assert len(train("char", endless(), endless(), train_samples=len(SOURCES))) > 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "byte_bpe", "vocab_size": 259}, r"vocab_size is 259, but byte_bpe needs 260"),
        ({"kind": "bpe", "vocab_size": 20}, r"vocab_size is 20, too few for the characters"),
        ({"kind": "unigram", "vocab_size": 20}, r"vocab_size is 20, too few for the characters"),
        ({"kind": "byte_bpe", "vocab_size": 9000}, r"tokenizer.vocab_size is 9000, but .* only \d+ entries"),
        ({"kind": "bpe", "vocab_size": 9000}, r"tokenizer.vocab_size is 9000, but .* only \d+ entries"),
        ({"kind": "unigram", "vocab_size": 9000}, r"tokenizer.vocab_size is 9000, but .* only \d+ entries"),
        ({"kind": "char", "shared": False, "target_kind": "bpe"}, r"tokenizer.target_vocab_size is 8000, but .* only"),
        ({"target_kind": "char"}, r"target_kind is 'char', but tokenizer.shared is true"),
        ({"sources": [], "targets": []}, r"no text to train a tokenizer on"),
        ({"sources": ["", " "], "shared": False}, r"no text to train a tokenizer on"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        train(**settings)


def test_the_size_it_names_is_the_size_there_is():
    with pytest.raises(ValueError, match="set it to") as error:
        train("bpe", vocab_size=9000)
    size = int(str(error.value).split("set it to ")[1].split()[0])
    assert len(train("bpe", vocab_size=size)) == size


def test_pair_has_two_sides(pair):
    source, target = "나는 오늘", "I met a friend today !"
    words = target_tokenizer(pair)
    assert (len(pair), pair.vocab_size, pair.target_vocab_size, len(words)) == (300, 300, 25, 25)
    assert words.convert_ids_to_tokens(pair(text_target=target).input_ids) == [*target.split(), "</s>"]
    both = pair(source, text_target=target)
    assert both.labels == pair(text_target=target).input_ids != pair(target).input_ids
    assert both.input_ids == pair(source).input_ids == pair(text=source).input_ids
    assert pair.decode(both.labels, skip_special_tokens=True) == target
    assert pair.batch_decode([both.labels, both.labels], skip_special_tokens=True) == [target] * 2
    assert pair.decode(both.input_ids, skip_special_tokens=True, use_source_tokenizer=True) == source
    assert pair.convert_ids_to_tokens(both.input_ids) == [*pair.tokenize(source), "</s>"]
    cut = pair(source, text_target=target, truncation=True, max_length=4, max_target_length=3)
    assert (len(cut.input_ids), len(cut.labels)) == (4, 3)
    shared = train()
    assert target_tokenizer(shared) is shared


def test_pair_pads_and_collates(pair):
    pair = pickle.loads(pickle.dumps(pair))
    batch = pair(SOURCES[:3], text_target=TARGETS[:3], padding=True, return_tensors="pt")
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.labels.shape[0] == 3
    pair.padding_side = "left"
    assert pair(text_target=["I met", "I"], padding=True).input_ids[1][0] == pair.pad_token_id
    pair.padding_side = "right"
    features = [pair(source, text_target=target) for source, target in zip(SOURCES, TARGETS, strict=False)]
    batch = DataCollatorForSeq2Seq(pair)(features)
    assert batch["labels"].shape == (9, max(len(feature.labels) for feature in features))
    assert (batch["input_ids"] == pair.pad_token_id).any()
    assert (batch["labels"] == -100).any()


def test_pair_needs_both_sides_to_agree(pair, tmp_path):
    with pytest.raises(ValueError, match="pad_token_id is 4 on the source side and"):
        type(pair)(
            tokenizer_object=pair.backend_tokenizer,
            target_tokenizer_object=pair.target_tokenizer.backend_tokenizer,
            pad_token="!",
        )
    pair.save_pretrained(tmp_path)
    (tmp_path / "target_tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"lacks its target side"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("trust_remote_code", [None, True])
@pytest.mark.parametrize("family", [None, *CONFIG_CLASSES])
def test_pair_or_plain_comes_back_by_itself(family, trust_remote_code, pair, tmp_path):
    for tokenizer in (pair, train()):
        folder = tmp_path / type(tokenizer).__name__
        if family is not None:
            CONFIG_CLASSES[family]().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        assert type(loaded) is type(tokenizer)
        loaded.save_pretrained(tmp_path / "again")
        again = AutoTokenizer.from_pretrained(tmp_path / "again")
        assert again(SOURCES, text_target=TARGETS * 2).data == tokenizer(SOURCES, text_target=TARGETS * 2).data
    (folder / "tokenizer_config.json").unlink()
    assert type(AutoTokenizer.from_pretrained(folder)) is PreTrainedTokenizerFast


@pytest.mark.slow
def test_pair_travels_without_seqloom(pair, tmp_path):
    folder = tmp_path / "pair"
    pair.save_pretrained(folder)
    expected = pair(SOURCES[0], text_target=TARGETS[1])
    script = f"""
import json, sys
sys.modules["seqloom"] = None  # importing it raises ImportError
from transformers import AutoTokenizer
for folder in ({str(folder)!r}, {str(tmp_path / "again")!r}):
    pair = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    encoded = pair({SOURCES[0]!r}, text_target={TARGETS[1]!r})
    print(json.dumps([encoded.input_ids, encoded.labels, pair.decode(encoded.labels, skip_special_tokens=True)]))
    pair.save_pretrained({str(tmp_path / "again")!r})
try:
    AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
except ValueError:
    print("refused")
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, second, refused = done.stdout.splitlines()
    assert json.loads(first) == json.loads(second) == [expected.input_ids, expected.labels, TARGETS[1]]
    assert refused == "refused"


def test_check_matches(pair):
    good = {"vocab_size": 300, "decoder_vocab_size": 25, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    check_matches(pair, SimpleNamespace(**good))
    check_matches(train(), SimpleNamespace(**{**good, "decoder_vocab_size": None, "eos_token_id": [2]}))
    for name, wrong in (("vocab_size", 301), ("decoder_vocab_size", 26), ("pad_token_id", 3), ("eos_token_id", None)):
        with pytest.raises(ValueError, match=rf"^{name} is {good[name]} in the tokenizer and {wrong} in the model"):
            check_matches(pair, SimpleNamespace(**{**good, name: wrong}))


def test_load_refuses_what_a_model_cannot_use(tmp_path):
    with pytest.raises(ValueError, match="is neither a folder nor a Hub name"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a folder without a tokenizer that can be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is a folder without a tokenizer that can be read"):
        load_tokenizer(tmp_path)
    endless = train("char")
    endless.add_eos_token = False
    endless.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not end a text with an end token"):
        load_tokenizer(tmp_path)
    unpadded = train("char")
    unpadded.pad_token = None
    unpadded.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no padding token"):
        load_tokenizer(tmp_path)
    short = train("char")
    short.model_max_length = -0.5
    short.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has the model_max_length -0\.5; it must be 1 or more"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "post_processor", "decoder"])
@pytest.mark.parametrize("file", ["tokenizer.json", "target_tokenizer.json"])
def test_a_file_that_lacks_a_part(pair, tmp_path, file, part):
    """Null is none, and what is lacking was lost: texts would be cut otherwise."""
    pair.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    (tmp_path / file).write_text(json.dumps({name: value for name, value in whole.items() if name != part}))
    with pytest.raises(ValueError, match=rf"{file} lacks {part}, which every saved tokenizer has|that can be read"):
        load_tokenizer(tmp_path)
    (tmp_path / file).write_text(json.dumps(whole))
    load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["clean_up_tokenization_spaces", "split_special_tokens"])
@pytest.mark.parametrize("value", [float("nan"), "no", 3])
def test_flags_that_are_none(tmp_path, name, value):
    """The second one the library refuses itself."""
    train("char").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(ValueError, match=f"has the {name} .*; it must be true or false|not an instance of 'bool'"):
        load_tokenizer(tmp_path)
