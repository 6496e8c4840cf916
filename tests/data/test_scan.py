"""SCAN: the generated pairs mean what the paper says, and the splits are the published ones (Lake and Baroni 2018)."""

import hashlib
import random
from itertools import product

import pytest

from seqloom.data.scan import LONGEST_TRAINING_TARGETS, SPLITS, UNPUBLISHED, commands, interpret, load_scan

# sha256 of `LC_ALL=C sort FILE` for the files of github.com/brendenlake/SCAN at commit c4b756c.
PUBLISHED = {
    "tasks.txt": "6be4b39bc8bf3a20be810b6991250d0493e608560609db6765dd679e1ed1c98e",
    "tasks_train_length.txt": "7ffb97f45029871c94bede7e723f7a4aa179eb99fe2b977a18283310422c719d",
    "tasks_test_length.txt": "3297fd0b676c391f7bc3a7385aa66a7fdf64f6f8e81ad584810c1d4ebd0eaa2c",
    "tasks_train_addprim_jump.txt": "0683daacfdce23cf8ed6f5077feda21785e93ac82e0d11363a9280b7b0c6561e",
    "tasks_test_addprim_jump.txt": "522454c6280eab957dfc4ea9579ef1d780a716ac34df09619970e1d98822d7e2",
    "tasks_train_addprim_turn_left.txt": "e0c26b51b6bba2658e02d69ad53fc15399842d57356d3551a3ed192bca0f9ad4",
    "tasks_test_addprim_turn_left.txt": "14dd6316d16204d2871678ee4bd35aba253416a9b4df36bb6dfdda153d46e549",
}
SIZES = {
    "simple": (16_728, 4_182),
    "length": (16_990, 3_920),
    "addprim_jump": (14_670, 7_706),
    "addprim_turn_left": (21_890, 1_208),
    "length_26": (18_286, 2_624),
}


@pytest.fixture(scope="module")
def splits():
    """Each split's train and test as lists of (source, target)."""
    return {split: {name: pairs(rows) for name, rows in load_scan(split).items()} for split in SIZES}


def pairs(rows) -> list[tuple[str, str]]:
    return list(zip(rows["source"], rows["target"], strict=True))


def compose() -> dict[str, str]:
    """The paper's rules read bottom-up: every command is built together with its meaning, nothing is parsed."""
    primitive = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
    turn = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
    phrase = dict(primitive)
    for side, t in turn.items():
        phrase |= {f"turn {side}": t, f"turn opposite {side}": f"{t} {t}", f"turn around {side}": f"{t} {t} {t} {t}"}
        for u, a in primitive.items():
            phrase[f"{u} {side}"] = f"{t} {a}"
            phrase[f"{u} opposite {side}"] = f"{t} {t} {a}"
            phrase[f"{u} around {side}"] = f"{t} {a} {t} {a} {t} {a} {t} {a}"
    sentence = dict(phrase)
    for v, a in phrase.items():
        sentence |= {f"{v} twice": f"{a} {a}", f"{v} thrice": f"{a} {a} {a}"}
    whole = dict(sentence)
    for (x, a), (y, b) in product(sentence.items(), repeat=2):
        whole |= {f"{x} and {y}": f"{a} {b}", f"{x} after {y}": f"{b} {a}"}
    return whole


def digest(rows) -> str:
    lines = sorted(f"IN: {source} OUT: {target}\n" for source, target in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "I_JUMP"),
        ("jump left", "I_TURN_LEFT I_JUMP"),
        ("jump around right", "I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP I_TURN_RIGHT I_JUMP"),
        ("turn left twice", "I_TURN_LEFT I_TURN_LEFT"),
        ("jump thrice", "I_JUMP I_JUMP I_JUMP"),
        ("jump opposite left and walk thrice", "I_TURN_LEFT I_TURN_LEFT I_JUMP I_WALK I_WALK I_WALK"),
        (
            "jump opposite left after walk around left",
            "I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK "
            "I_TURN_LEFT I_TURN_LEFT I_JUMP",
        ),
        ("turn opposite left", "I_TURN_LEFT I_TURN_LEFT"),
        (
            "turn around right after look opposite left twice",
            "I_TURN_LEFT I_TURN_LEFT I_LOOK I_TURN_LEFT I_TURN_LEFT I_LOOK "
            "I_TURN_RIGHT I_TURN_RIGHT I_TURN_RIGHT I_TURN_RIGHT",
        ),
    ],
)
def test_examples(command, actions):
    assert interpret(command) == actions


@pytest.mark.parametrize(
    "command",
    ["", "turn", "turn twice", "turn and walk", "walk opposite", "walk around twice", "walk left right", "twice walk",
     "walk twice thrice", "walk and", "walk and run after jump", "Walk", "walk  left", " walk", "walk\n", "crawl left"],
)  # fmt: skip
def test_commands_outside_the_grammar_are_refused(command):
    with pytest.raises(ValueError, match="is not a SCAN command") as error:
        interpret(command)
    assert repr(command) in str(error.value)


@pytest.mark.slow
def test_parsing_agrees_with_composing_on_every_command():
    generated = commands()
    assert len(generated) == len(set(generated)) == 20_910
    assert {command: interpret(command) for command in generated} == compose()
    assert max(len(interpret(command).split()) for command in generated) == 48
    assert digest((command, interpret(command)) for command in generated) == PUBLISHED["tasks.txt"]


def test_the_order_of_commands():
    generated = commands()
    assert generated[:4] == ["walk", "walk twice", "walk thrice", "look"]
    assert generated[101:104] == ["turn around right thrice", "walk and walk", "walk and walk twice"]
    assert generated[-1] == "turn around right thrice after turn around right thrice"


@pytest.mark.slow
@pytest.mark.parametrize("split", SIZES)
def test_sizes_and_no_leak(splits, split):
    train, test = splits[split]["train"], splits[split]["test"]
    assert (len(train), len(test)) == SIZES[split]
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(compose().items())


@pytest.mark.slow
@pytest.mark.parametrize("split", ["length", "addprim_jump", "addprim_turn_left"])
@pytest.mark.parametrize("name", ["train", "test"])
def test_line_for_line_the_published_split(splits, split, name):
    assert digest(splits[split][name]) == PUBLISHED[f"tasks_{name}_{split}.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(("split", "ends"), [("length", (22, 24, 48)), ("length_26", (26, 27, 48))])
def test_length_is_split_by_actions(splits, split, ends):
    lengths = {name: [len(target.split()) for _, target in rows] for name, rows in splits[split].items()}
    assert (max(lengths["train"]), min(lengths["test"]), max(lengths["test"])) == ends


@pytest.mark.slow
@pytest.mark.parametrize(("split", "primitive"), [("addprim_jump", "jump"), ("addprim_turn_left", "turn left")])
def test_the_added_primitive_is_a_tenth_of_training_and_alone(splits, split, primitive):
    train = [source for source, _ in splits[split]["train"]]
    alone = train.count(primitive)
    assert 10 * alone == len(train)
    others = [source for source in train if source != primitive]
    assert len(others) == len(set(others)) == len(train) - alone
    assert not any(primitive in source for source in others)
    assert all(primitive in source and source != primitive for source, _ in splits[split]["test"])
    assert 0 < train[:1000].count(primitive) < 200  # mixed in, so that any slice has its share


@pytest.mark.slow
def test_the_random_draw_never_changes(splits):
    random.seed(0)
    state = random.getstate()
    again = load_scan("simple")
    assert random.getstate() == state
    assert {name: pairs(rows) for name, rows in again.items()} == splits["simple"]
    # Our own draw has no published counterpart to be held against, so its first row and digest are kept here.
    assert splits["simple"]["train"][0][0] == "walk right after look thrice"
    assert digest(splits["simple"]["test"]) == "d40dc6148d06b9e642d97f5f4c673f9278b0842d0fbc80f9203b564a838b21ea"


def test_columns_and_unknown_split():
    assert {name: rows.column_names for name, rows in load_scan().items()} == {
        "train": ["source", "target"],
        "test": ["source", "target"],
    }
    published = {name.split("_", 2)[2].removesuffix(".txt") for name in PUBLISHED if name != "tasks.txt"}
    assert set(SIZES) == {*SPLITS, *LONGEST_TRAINING_TARGETS} == {*UNPUBLISHED, *published}
    with pytest.raises(ValueError, match="simple, length, addprim_jump, addprim_turn_left, length_26"):
        load_scan("template")
