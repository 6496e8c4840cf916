"""Texts of figures stand there as they were typed."""

import io

import pytest

from seqloom.figures import style

NAMES = ["a$b", "$x_1$", r"$\frac{1}{", r"\alpha^2_3", "100 % {}", "{x}", "<b> & 'c'", "_hidden", "__x__", r"\$5\$"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_letter_for_letter(name):
    """In titles, at axes, in legends and beside ticks: whoever is drawn a formula has another picture."""
    figure, (panel,) = style.new_figure()
    panel.plot([1, 2], [1, 10], label=style.as_label(name))
    panel.set_title(name)
    panel.set_ylabel(name)
    panel.set_xticks([1, 2], [name, name])
    style.share_legend(figure, panel)
    style.save(figure, io.BytesIO())
    style.save(figure, io.BytesIO(), "svg")
    (legend,) = figure.legends
    texts = [*legend.get_texts(), panel.title, panel.yaxis.label, *panel.get_xticklabels()]
    assert [text.get_text() for text in texts] == [name] * 5
    assert not any(text.get_parse_math() for text in texts)


def test_powers_of_ten_stay_formulas():
    figure, (panel,) = style.new_figure()
    panel.plot([1, 2], [1, 10_000])
    panel.set_yscale("log")
    style.save(figure, io.BytesIO())
    labels = [label for label in panel.get_yticklabels() if label.get_text()]
    assert any("10^{" in label.get_text() for label in labels)
    assert all(label.get_parse_math() for label in labels)


@pytest.mark.slow  # asks the system for its fonts
def test_letters_that_no_font_has():
    """They are said once, without an option that there is not, and drawn as boxes."""
    figure, (panel,) = style.new_figure()
    panel.set_title("\U00012000 b")  # cuneiform
    with pytest.warns(UserWarning, match=r"no installed font has .* Noto Sans for other scripts\.$") as said:
        style.save(figure, io.BytesIO())
    assert len(said) == 1
    assert panel.title.get_text() == "□ b"
