"""What a card is made of: models of other makes, what cannot be read, and texts that are no markup."""

import pytest
from helpers.others import save_other

from seqloom.decoding.translate import translate
from seqloom.demo_page.answers import Problem, answer_all, check_sentence
from seqloom.demo_page.cards import result_html
from seqloom.demo_page.models import header_of, open_models, sources_differ
from seqloom.support.language import speaking


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A model that decodes by its own search."""
    folder = save_other("marian", tmp_path_factory.mktemp("marian"))
    widget = "widget:\n- text: a b c\n- text: {}\n- src: picture.png\n"
    (folder / "README.md").write_text(f"---\nlanguage: [en, de]\n{widget}---\n", encoding="utf-8")
    return open_models([str(folder)])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_another_make(marian, num_beams):
    (answer,) = answer_all(marian, "a b zz c", num_beams)
    (shown,) = marian
    assert (shown.family, shown.languages, shown.examples) == ("MarianMTModel", ["en", "de"], ["a b c"])
    options = {"num_beams": num_beams, "num_return_sequences": num_beams, "return_hypotheses": True}
    found = translate(shown.model, shown.tokenizer, "a b zz c", **options)
    hypotheses = found if num_beams > 1 else [found]
    assert [leaf.text for leaf in answer.leaves] == [hypothesis.text for hypothesis in hypotheses]
    assert [leaf.score for leaf in answer.leaves] == pytest.approx([hypothesis.score for hypothesis in hypotheses])
    assert answer.unknown == ["zz"]
    assert answer.maps.source_labels == ["a", "b", "⟨unknown: zz⟩", "c", "⟨end⟩"]
    html = result_html([answer])
    assert ("Only finished outputs are shown" in html) == (num_beams > 1)
    assert html.count("<rect") == len(answer.tree.nodes)


def test_too_long(marian):
    (answer,) = answer_all(marian, "a " * 24, 2)
    assert "The sentence has 25 tokens; this model reads 24 at most." in result_html([answer])
    assert check_sentence(" a\n b ", 3) == "a b"
    for sentence, said in ((" \n", "There is no sentence yet."), ("abcd", "The sentence has 4 characters;")):
        with pytest.raises(Problem) as found:
            check_sentence(sentence, 3)
        assert said in result_html(found.value)


def test_texts_are_no_markup(marian):
    (answer,) = answer_all(marian, "a <img src=x onerror=alert(1)>", 2)
    with speaking("ko"):
        html = result_html([answer])
    assert "<img" not in html
    assert "&lt;img" in html


def test_languages(marian):
    (shown,) = marian
    assert sources_differ(marian * 2) == {}
    other = type(shown)(**{**vars(shown), "title": "other", "languages": ["ko", "de"]})
    unsaid = type(shown)(**{**vars(shown), "title": "unsaid", "languages": []})
    assert sources_differ([shown, unsaid]) == {}
    assert sources_differ([shown, other, unsaid]) == {shown.title: "en", "other": "ko"}


def test_a_card_that_cannot_be_read(tmp_path):
    """Says nothing; the model is shown all the same."""
    for text in (b"", b"no header", b"---\nlanguage: [en\nx: : :\n---\n", b"---\n\xff\n---\n", b"---\n- a\n---\n"):
        (tmp_path / "README.md").write_bytes(text)
        assert header_of(str(tmp_path), None) == {}
