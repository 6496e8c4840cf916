"""Transformers' Trainer and peft's adapters train all families as any other model."""

import numpy as np
import peft
import pytest
import torch
from helpers.contract import assert_same, distinct, say
from helpers.tiny import RNNS, batch, close, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

pytestmark = pytest.mark.slow  # transformers' Trainer and peft learn

ONE_OF_EACH = ["lstm-luong", "hybrid", "post-norm"]


# Seq2SeqTrainer


WORDS = [f"w{number}" for number in range(17)]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """Sentences and the same backwards."""
    draw = np.random.default_rng(3)
    sources = [list(draw.choice(WORDS[:4], size=1 + index % 2)) for index in range(32)]
    texts = [" ".join(words) for words in sources]
    encoded = tokenizer(texts, text_target=[" ".join(reversed(words)) for words in sources])
    return [
        {key: encoded[key][index] for key in ("input_ids", "attention_mask", "labels")} for index in range(len(texts))
    ]


def learner(name):
    """A fresh model, somewhat wider, without dropout."""
    recurrent = {"hidden_size": 32, "embedding_size": 32, "init_range": None}
    wider = recurrent if name in RNNS else {"d_model": 32}
    return tiny(name, noise=0.0, dropout=0.0, **wider)


def trainer_for(model, tokenizer, pairs, folder, **options):
    metrics = options.pop("compute_metrics", None)
    arguments = {
        "learning_rate": 0.01, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8, "save_strategy": "no",
        "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "report_to": [], "dataloader_pin_memory": False,
        **options,
    }  # fmt: skip
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=metrics,
    )


def losses(trainer) -> list:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing")
@pytest.mark.parametrize("precision", [{}, {"bf16": True, "gradient_checkpointing": True}], ids=["fp32", "bf16"])
def test_trainer_trains_and_evaluates_by_generating(name, precision, tokenizer, pairs, tmp_path):
    model = learner(name)

    def exact(prediction):
        found = np.where(prediction.predictions == -100, tokenizer.pad_token_id, prediction.predictions)
        labels = np.where(prediction.label_ids == -100, tokenizer.pad_token_id, prediction.label_ids)
        texts = tokenizer.batch_decode(found, skip_special_tokens=True)
        return {"exact": np.mean([a == b for a, b in zip(texts, tokenizer.batch_decode(labels, True), strict=True)])}

    trainer = trainer_for(
        model, tokenizer, pairs, tmp_path, max_steps=60, predict_with_generate=True, generation_max_length=6,
        generation_num_beams=2, compute_metrics=exact, lr_scheduler_type="linear",
        learning_rate=0.03 if name in RNNS else 0.005, **precision,
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert losses(trainer)[-1] < 0.25 * losses(trainer)[0]
    assert after["eval_loss"] < 0.25 * before["eval_loss"]
    assert before["eval_exact"] < 0.2
    assert after["eval_exact"] > 0.6


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_trainers_limit_goes_before_the_models_own(name, tokenizer, pairs, tmp_path):
    """`generation_max_length` of a model that was trained with a limit of its own, as every saved one is."""
    model = learner(name)
    model.generation_config.max_new_tokens = 12
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    model.save_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)

    def lengths(prediction):
        return {"length": int((prediction.predictions != -100).sum(-1).max())}

    trainer = trainer_for(
        model, tokenizer, pairs[:8], tmp_path, predict_with_generate=True, generation_max_length=5,
        compute_metrics=lengths,
    )  # fmt: skip
    pad = tokenizer.pad_token_id
    assert trainer.evaluate()["eval_length"] >= 5
    found = trainer.predict(pairs[:8]).predictions
    assert ((found != -100) & (found != pad)).sum(-1).max() == 5
    found = trainer.predict(pairs[:8], max_new_tokens=3).predictions
    assert ((found != -100) & (found != pad)).sum(-1).max() == 4
    assert model.generate(torch.tensor([[3, 4, 2]]), max_length=5).shape[1] == 5
    assert model.generate(torch.tensor([[3, 4, 2]])).shape[1] == 13


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_trainer_smooths_labels_as_the_model_does(name, tokenizer, pairs, tmp_path):
    model = learner(name)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path, label_smoothing_factor=0.1, max_steps=12)
    inputs = trainer.data_collator(pairs[:7])
    assert "decoder_input_ids" in inputs
    expected = model.eval()(**{**inputs, "label_smoothing": 0.1}).loss
    assert expected != model(**inputs).loss
    close(trainer.compute_loss(model, dict(inputs)), expected)
    trainer.train()
    assert losses(trainer)[-1] < 0.9 * losses(trainer)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_trainers_accumulated_batches_are_one_large_batch(name, tokenizer, pairs, tmp_path):
    results = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = learner(name)
        trainer = trainer_for(
            model, tokenizer, pairs, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            max_steps=3, optim="sgd", learning_rate=0.5, max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        results.append((torch.tensor(losses(trainer)), model.state_dict()))
    fresh = learner(name).state_dict()
    for loss, weights in results[1:]:
        close(loss, results[0][0], 2e-4)  # the log is rounded
        for key, value in results[0][1].items():
            close(weights[key], value)
    assert any((value - fresh[key]).abs().max() > 1e-2 for key, value in results[0][1].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_resumed_trainer_is_the_unbroken_one(name, tokenizer, pairs, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    unbroken = trainer_for(learner(name), tokenizer, pairs, tmp_path, **options)
    unbroken.train()
    resumed = trainer_for(learner(name), tokenizer, pairs, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(unbroken)
    for key, value in unbroken.model.state_dict().items():
        close(resumed.model.state_dict()[key], value, 1e-6)
    saved = type(resumed.model).from_pretrained(tmp_path / "checkpoint-6")
    assert distinct(saved) == 1
    assert_same(unbroken.model.eval(), saved)


# LoRA


RECURRENT_LINEAR = ["key_proj", "query_proj", "readout"]


def train_a_little(model):
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("post-norm", {"target_modules": ["q_proj", "v_proj"]}),
        ("rotary-swiglu-pre-norm", {"target_modules": "all-linear"}),
        ("untied-unscaled", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
        ("gru-bahdanau", {"target_modules": RECURRENT_LINEAR}),
        ("gru", {"target_modules": r".*\.bridge\.\d+"}),
        ("lstm-luong", {"target_modules": "all-linear"}),
        ("lstm-untied", {"target_modules": ["lm_head"]}),
        ("lstm-luong", {"target_parameters": ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]}),
        ("gru-bahdanau", {"target_modules": ["key_proj"], "target_parameters": ["rnn.weight_hh_l0"]}),
        ("lstm-luong", {"target_modules": ["readout"], "modules_to_save": ["rnn"]}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_lora_trains_saves_reloads_and_merges(name, targets, tmp_path):
    base = tiny(name)
    frozen = {path: value.clone() for path, value in base.state_dict().items()}
    expected = base(**batch()).logits.detach()
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, lora_alpha=8, **targets)
    adapted = peft.get_peft_model(base, config).eval()
    close(adapted(**batch()).logits, expected)
    before = {path: value.clone() for path, value in adapted.named_parameters()}
    train_a_little(adapted)
    changed = {path for path, value in adapted.named_parameters() if not torch.equal(value, before[path])}
    assert changed == {path for path, value in adapted.named_parameters() if value.requires_grad}
    assert changed
    assert all("lora_" in path or "modules_to_save" in path for path in changed)
    logits, tokens = adapted(**batch()).logits.detach(), say(adapted)
    assert (logits - expected).abs().max() > 1e-2
    with adapted.disable_adapter():
        close(adapted(**batch()).logits, expected)

    adapted.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    reloaded = peft.PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    close(reloaded(**batch()).logits, logits)
    assert torch.equal(say(reloaded), tokens)
    merged = reloaded.merge_and_unload()
    assert type(merged) is type(base)
    assert merged.state_dict().keys() == frozen.keys()
    close(merged(**batch()).logits, logits, 1e-4)
    assert torch.equal(say(merged), tokens)


@pytest.mark.parametrize("name", ["lstm-luong", "gru"])
def test_lora_says_that_recurrent_modules_are_no_targets(name):
    with pytest.raises(ValueError, match="not supported"):
        peft.get_peft_model(tiny(name), peft.LoraConfig(target_modules=["rnn"]))


@pytest.mark.parametrize(
    ("name", "target"), [("lstm-luong", ["key_proj", "readout"]), ("post-norm", ["q_proj", "v_proj"])]
)
def test_adapters_are_added_and_loaded_by_the_model_itself(name, target, tmp_path):
    model = tiny(name)
    expected, tokens = model(**batch()).logits, say(model)
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=8, target_modules=target), adapter_name="mine")
    assert model.active_adapters() == ["mine"]
    for path, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in path)
    train_a_little(model)
    logits = model(**batch()).logits
    assert (logits - expected).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "model.safetensors").exists()
    other = tiny(name)
    other.load_adapter(str(tmp_path), adapter_name="theirs")
    close(other(**batch()).logits, logits)
    assert torch.equal(say(other), say(model))
    other.disable_adapters()
    close(other(**batch()).logits, expected)
    assert torch.equal(say(other), tokens)
    other.enable_adapters()
    close(other(**batch()).logits, logits)
