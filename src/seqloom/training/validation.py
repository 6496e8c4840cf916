"""What a run's model makes of its validation pairs: the loss, and a metric of greedy outputs."""

from __future__ import annotations

import torch
from accelerate.utils import gather_object

from seqloom.decoding.translate import GREEDY, translate
from seqloom.scoring import metrics
from seqloom.scoring.normalization import normalized
from seqloom.training.devices import whole_model
from seqloom.training.state import Run


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """The unsmoothed validation loss per target token and, where wanted, the metric of greedy outputs."""
    accelerator, model = run.accelerator, run.scored_model
    model.eval()
    total, num_tokens = torch.zeros((), dtype=torch.float64), 0
    for position in run.validation_stream.epoch(0):
        for batch in position.micro_batches:
            inputs = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            with accelerator.autocast():
                loss = model(
                    **inputs, num_items_in_batch=1, label_smoothing=0.0, use_cache=False, **run.loss_options
                ).loss
            total += loss.item()
        num_tokens += position.num_tokens
    loss_sum = accelerator.reduce(total.float().to(accelerator.device), reduction="sum").item()
    scores = {"loss": loss_sum / num_tokens}
    if name := run.settings.training.eval_metric:
        sources, references = run.validation_pairs["source"][:], run.validation_pairs["target"][:]
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        model = whole_model(accelerator, model)  # processes decode other texts, in other numbers of steps
        outputs = translate(
            model, run.tokenizer, sources[mine], batch_tokens=run.settings.generation.decode_batch_tokens, **GREEDY
        )
        order = gather_object(list(range(len(sources)))[mine])
        outputs = [text for _, text in sorted(zip(order, gather_object(outputs), strict=True))]
        options = run.settings.evaluation.metric_kwargs.get(name, {})
        references = normalized(references, run.tokenizer).texts
        scores[name] = metrics.compute(name, outputs, references, sources=sources, **options)["score"]
    return scores
