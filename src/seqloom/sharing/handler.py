"""Answers the requests of a Hugging Face Inference Endpoint, from beside the weights.

An Endpoint imports this file, makes an `EndpointHandler` of the folder in which it lies, and calls that with the body
of each request. It needs transformers and the folder's own code alone; where seqloom is installed (a line more in
requirements.txt), it decodes by that, faster.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

LONGEST = 256
"""Tokens of an output at most where neither the model nor the request has a limit."""


class EndpointHandler:
    """Texts in, texts out.

    Args:
        path: The folder with the model.
    """

    def __init__(self, path: str = ""):
        try:
            import seqloom
        except ImportError:
            seqloom = None  # type: ignore[assignment]
        folder = Path(path)
        # The folder's code is whose the file is that you read; where seqloom is installed, it is not needed.
        options: dict[str, Any] = {"trust_remote_code": seqloom is None}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.translate = self.generate if seqloom is None else partial(seqloom.translate, self.model, self.tokenizer)
        card = folder / "README.md"
        header = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict() if card.is_file() else {}
        # As the clients of the two tasks expect it.
        self.name = "translation_text" if header.get("pipeline_tag") == "translation" else "generated_text"

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """What a request is answered.

        Args:
            data: ``inputs``, a text or a list of texts; ``parameters``, which may be there, of `generate`.

        Returns:
            For a text, a list of ``{"translation_text": …}`` (or ``"generated_text"``), one for each returned sequence;
            for a list, such an entry of each, or a list of them where ``num_return_sequences`` is above 1.

        Raises:
            ValueError: The request is none; an Endpoint answers it with the sentence, and 400.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        texts = inputs if isinstance(inputs, list) else [inputs]
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"inputs must be a text or a list of texts, not {text!r}.")
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters must be names and values, not {parameters!r}.")
        for name in parameters:
            if name.startswith("_") or name not in vars(self.model.generation_config):
                raise ValueError(f"parameters has {name!r}, which generate does not know.")
        if not texts:
            return []
        config = vars(self.model.generation_config) | parameters
        if not config.get("max_new_tokens") and not config.get("max_length"):
            parameters = parameters | {"max_new_tokens": LONGEST}
        outputs = self.translate(texts, **parameters)
        entries = [[{self.name: one} for one in (found if isinstance(found, list) else [found])] for found in outputs]
        if isinstance(inputs, str):
            return entries[0]
        return [found[0] if len(found) == 1 else found for found in entries]

    @torch.inference_mode()
    def generate(self, texts: list[str], **parameters: Any) -> list[list[str]]:
        """All outputs of each text, in one batch, by the model's own `generate`."""
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True).to(self.model.device)
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        found = self.model.generate(**inputs, **parameters)
        written = self.tokenizer.batch_decode(
            found if torch.is_tensor(found) else found.sequences, skip_special_tokens=True
        )
        returned = len(written) // len(texts)
        return [written[first : first + returned] for first in range(0, len(written), returned)]
