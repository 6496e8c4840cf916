"""`seqloom plot`: the curves show the logs, and what cannot be drawn is said."""

import json
import math
import struct

import pytest

from seqloom.__main__ import main as seqloom
from seqloom.commands import plot
from seqloom.figures import style


def write_log(folder, lines, end=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + end)
    return folder


def old_log(metric="sacrebleu", updates=6):
    """As runs had it before padding, tokens and memory were counted."""
    log = []
    for step in range(1, updates + 1):
        log.append({"step": step, "epoch": 0, "loss": 9 / step, "learning_rate": 0.1 * step, "gradient_norm": 2 / step,
                    "tokens_per_second": 100.0 + step, "seconds": 40.0 * step})  # fmt: skip
        if step % 2 == 0:
            log.append({"step": step, "epoch": 0, "eval_loss": 8 / step, f"eval_{metric}": 5.0 * step,
                        "best": step == 4, "seconds": 40.0 * step + 1})  # fmt: skip
    return log


def new_log(**options):
    return [
        {**line, "target_tokens": 1000 * line["step"], "memory_mib": 500.0, "padding": 0.1}
        for line in old_log(**options)
    ]


def drawn(part):
    return [line.get_xydata().tolist() for line in part.get_lines()]


class TestPlot:
    def test_shows_the_logs(self, tmp_path):
        runs = [write_log(tmp_path / "a", old_log()), write_log(tmp_path / "b", new_log(metric="chrf", updates=4))]
        figure = plot.plot_runs(runs)
        parts = {part.get_ylabel(): part for part in figure.axes if part.axison}
        assert list(parts) == [
            "loss (nats per target token)", "validation chrF (%)", "validation BLEU (%)", "learning rate",
            "gradient norm, log scale", "speed (target tokens/s)", "peak memory (MiB)",
        ]  # fmt: skip
        losses = drawn(parts["loss (nats per target token)"])
        for log, lines in ((old_log(), losses[:3]), (new_log(metric="chrf", updates=4), losses[3:])):
            assert lines[0] == [[line["step"], line["loss"]] for line in log if "loss" in line]
            assert lines[1] == [[line["step"], line["eval_loss"]] for line in log if "eval_loss" in line]
            assert lines[2] == [[4, 2.0]]  # the best
        assert drawn(parts["validation BLEU (%)"])[:2] == [[[2, 10], [4, 20], [6, 30]], [[4, 20]]]
        assert drawn(parts["peak memory (MiB)"]) == [[], [[step, 500] for step in range(1, 5)]]
        assert parts["gradient norm, log scale"].get_yscale() == "log"
        assert {part.get_xlabel() for part in parts.values()} == {"updates"}
        assert len({part.get_xlim() for part in parts.values()}) == 1
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
        handles = legend.legend_handles
        assert [line.get_color() for line in handles] == [style.BLUE, style.VERMILLION]
        assert {line.get_color() for line in parts["learning rate"].get_lines()} == {style.BLUE, style.VERMILLION}
        assert handles[0].get_marker() != handles[1].get_marker()

    @pytest.mark.parametrize(
        ("x", "label", "last"),
        [("updates", "updates", 6), ("tokens", "target tokens", 6000),
         ("seconds", "training time, validations included (minutes)", 4)],
    )  # fmt: skip
    def test_abscissas(self, tmp_path, x, label, last):
        figure = plot.plot_runs([write_log(tmp_path / "a", new_log())], x)
        assert figure.axes[0].get_xlabel() == label
        assert drawn(figure.axes[0])[0][-1][0] == last

    def test_units(self, tmp_path):
        log = [{**line, "target_tokens": 10**7 * line["step"], "memory_mib": 20480.0, "seconds": 9e3 * line["step"]}
               for line in old_log()]  # fmt: skip
        folder = write_log(tmp_path / "a", log)
        memory = plot.plot_runs([folder], "tokens").axes[5]
        assert (memory.get_ylabel(), memory.get_xlabel()) == ("peak memory (GiB)", "target tokens (millions)")
        assert drawn(memory)[0][-1] == [60, 20]
        assert plot.plot_runs([folder], "seconds").axes[0].get_xlabel().endswith("(hours)")

    def test_many_runs_look_different(self, tmp_path):
        folders = [write_log(tmp_path / str(number) / "run", old_log()) for number in range(14)]
        (legend,) = plot.plot_runs(folders).legends
        looks = {(line.get_color(), line.get_linestyle()) for line in legend.legend_handles}
        assert len(looks) == 14
        assert [text.get_text() for text in legend.get_texts()][:2] == ["0/run", "1/run"]
        with pytest.raises(ValueError, match="15 runs are more than can be told apart in one picture: give at most 14"):
            plot.plot_runs([*folders, tmp_path])

    @pytest.mark.parametrize(
        "lines",
        [
            new_log(updates=1),
            [line for line in new_log() if "best" in line][:1],
            [{**line, "loss": math.nan, "gradient_norm": math.inf} for line in new_log(updates=1)],
            [{"step": 1, "epoch": 0, "learning_rate": 0.1, "tokens_per_second": 0.0, "memory_mib": 0.0}],
            [{"step": 0, "eval_loss": 1.0, "best": True}],
            [{"step": 1, "loss": -1.0}, {"step": 2, "loss": 0.0}],
        ],
        ids=["one line", "one validation", "no numbers", "no loss", "update 0", "no scale"],
    )
    def test_short_logs(self, tmp_path, lines):
        figure = plot.plot_runs([write_log(tmp_path / "a", lines)])
        style.save(figure, tmp_path / "curves.png")
        shown = [point for part in figure.axes for points in drawn(part) for point in points]
        assert shown
        assert all(math.isfinite(value) for point in shown for value in point)

    @pytest.mark.parametrize("name", ["$x_1$", "a$b", r"\frac{", "_a", "{}", "m^"])
    def test_names_as_typed(self, tmp_path, name):
        figure = plot.plot_runs([write_log(tmp_path / name, old_log(metric=name))])
        style.save(figure, tmp_path / "curves.png")
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [name]
        assert f"validation {name}" in [part.get_ylabel() for part in figure.axes]

    @pytest.mark.slow
    def test_command(self, tmp_path, monkeypatch, capsys):
        """A run that is still going on; and nothing is overwritten unasked."""
        write_log(tmp_path / "a", old_log(), end='{"step": 7, "lo')
        monkeypatch.chdir(tmp_path)
        assert seqloom(["plot", "a"]) == 0
        assert capsys.readouterr().out == "the curves of a are in curves.png\n"
        picture = (tmp_path / "curves.png").read_bytes()
        assert struct.unpack(">I", picture[16:20]) == (1200,)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "curves.png"]
        assert seqloom(["plot", "a"]) == 1
        assert "curves.png is there already; give --overwrite" in capsys.readouterr().err
        write_log(tmp_path / "b", new_log())
        assert seqloom(["plot", "a", "b", "--x=seconds", "--overwrite"]) == 0
        assert (tmp_path / "curves.png").read_bytes() != picture
        assert seqloom(["plot"]) == 2
        assert seqloom(["plot", "--help"]) == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("nowhere", "there is no folder nowhere; give the output_dir of a training"),
            ("bare", "bare has no training_log.jsonl"),
            ("empty", "empty/training_log.jsonl is empty: its first line comes after"),
            ("begun", "begun/training_log.jsonl is empty"),
            ("damaged", "line 2 of damaged/training_log.jsonl is damaged"),
            ("nothing", "the logs of nothing hold no number that is drawn over updates"),
            ("nan", "the logs of nan hold no number"),
            ("texts", "line 1 of texts/training_log.jsonl is damaged"),
            ("a --x tokens", "the log of a counts no tokens, as an older version wrote it; take --x updates"),
            ("a --x epochs", "--x is 'epochs'; it can be updates, tokens, seconds"),
            ("a --output curves.pdf", "give a name that ends in .png"),
            ("a --output no/curves.png", "there is no folder no to write curves.png to"),
            ("a --output folder.png --overwrite", "folder.png is there already"),
            ("a --output --overwrite", "--output needs a value"),
            ("a --smooth 3", "--smooth is unknown; did you mean --output? usage: seqloom plot RUN"),
            ("a ./a", "the run a is given twice"),
            ("--overwrite", "no run is given. usage: seqloom plot RUN"),
        ],
    )
    def test_refusals(self, tmp_path, monkeypatch, capsys, words, message):
        monkeypatch.chdir(tmp_path)
        for name in ("bare", "folder.png"):
            (tmp_path / name).mkdir()
        write_log(tmp_path / "a", old_log())
        write_log(tmp_path / "empty", [])
        write_log(tmp_path / "nothing", [{"step": 1, "epoch": 0}])
        write_log(tmp_path / "nan", [{"step": 1, "loss": math.nan}])
        write_log(tmp_path / "texts", [{"step": 1, "loss": "low"}])
        write_log(tmp_path / "begun", [], end='{"step"')
        write_log(tmp_path / "damaged", [{"step": 1, "loss": 1.0}], end='{"step": 2,\n{"step": 3}\n')
        assert seqloom(["plot", *words.split()]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not list(tmp_path.glob("**/*.p[nd][gf]"))[1:]
