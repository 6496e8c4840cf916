"""Scripts without spaces: which they are, BLEU's tokenizer for them, and what is said of metrics of words."""

import pytest

from seqloom.scoring.metrics import compute, note
from seqloom.scoring.scripts import written_in

TEXTS = {
    "Chinese": ["我爱你们大家。", "今天天气很好"], "Japanese": ["私は学生です。", "カタカナ"], "Thai": ["ฉันรักคุณมากที่สุด"],
    "Lao": ["ຂ້ອຍຮັກເຈົ້າ"], "Khmer": ["ខ្ញុំស្រឡាញ់អ្នក"], "Burmese": ["ငါမင်းကိုချစ်တယ်"], "Korean": ["나는 학생이다"],
}  # fmt: skip


@pytest.mark.parametrize("language", TEXTS)
def test_found(language):
    assert written_in(TEXTS[language]) == written_in([TEXTS[language]]) == language


@pytest.mark.parametrize("texts", [["a dog ."], ["hello 我"], ["我 爱 你 们"], [""], ["12 !"], ["ฉัน รัก คุณ มาก"]])
def test_others_and_those_whose_words_are_parted(texts):
    assert written_in(texts) is None


def test_bleu():
    texts = ["今天天气很好。", "我爱你们大家。"]
    close = ["今天天气不好。", "我爱你们大家。"]
    found = compute("sacrebleu", close, texts)
    assert "|tok:zh|" in found["signature"]
    assert found["score"] == compute("sacrebleu", close, texts, tokenize="zh")["score"] > 40
    assert "|tok:13a|" in compute("sacrebleu", close, texts, tokenize="13a")["signature"]  # who chose it has it
    assert "|tok:char|" in compute("sacrebleu", TEXTS["Thai"], TEXTS["Thai"])["signature"]
    assert "|tok:13a|" in compute("sacrebleu", ["a b"], ["a b"])["signature"]


def test_notes():
    for name in ("wer", "rouge", "ter", "token_accuracy"):
        assert "are Thai, which is written without spaces" in note(name, TEXTS["Thai"], {})
        assert note(name, TEXTS["Korean"], {}) is note(name, ["a b"], {}) is None
    assert (
        note("cer", TEXTS["Thai"], {}) is note("chrf", TEXTS["Thai"], {}) is note("theirs", TEXTS["Thai"], {}) is None
    )
    assert note("per", TEXTS["Thai"], {}) is None
    assert "sacrebleu's tokenizer zh" in note("sacrebleu", TEXTS["Chinese"], {})
    assert note("sacrebleu", TEXTS["Chinese"], {"tokenize": "char"}) is None
    short = "no reference has four tokens, so no 4-gram can be right"
    assert short in note("sacrebleu", ["hallo Welt", ["ja", "vielen Dank"]], {})
    assert short in note("sacrebleu", ["好"], {"tokenize": "zh"})
    for texts, options in ((["hallo, Welt!"], {}), (["a b", "a b c d"], {}), (["a b"], {"effective_order": True})):
        assert note("sacrebleu", texts, options) is None
    assert "without spaces" in note("sacrebleu", TEXTS["Chinese"], {"tokenize": "13a"})
