"""A few texts that the model writes while it is trained, into the terminal and the tracker."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from scalequest.training import data

if TYPE_CHECKING:
    from datasets import Dataset

    from scalequest.training.context import Run

log = logging.getLogger(__name__)


class ShowSamples(TrainerCallback):
    """Every so many steps, lets the model continue the prompts of a few rows (for questions the bare header).

    All ranks generate the same texts with the same seed: where weights lie in pieces every rank has to take
    part, and one that waited would time out. The random state of training is put back, so that sampling
    changes no weight.
    """

    def __init__(self, run: Run, rows: Dataset, stop_ids: list[int]) -> None:
        args = run.args
        self.run, self.every, self.stop_ids = run, args.sample_every, stop_ids
        self.prompts = [prompt_of(rows[n], run) for n in range(min(args.sample_count, len(rows)))]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Generate and report; all ranks come here."""
        if state.global_step % self.every:
            return
        texts = self.generate(model, state.global_step)
        if not self.run.main:
            return
        for text in texts:
            log.info("%s: step %d writes: %s", self.run.name, state.global_step, " ".join(text.split())[:300])
        if self.run.tracker is not None:
            shown = [{"step": state.global_step, "text": text} for text in texts]
            self.run.tracker.table("samples", shown)

    def generate(self, model: Any, step: int) -> list[str]:
        """Continue each prompt once, as the data stages would: at temperature 1, from its own seed."""
        tokenizer, width = self.run.tokenizer, max(map(len, self.prompts))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in self.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in self.prompts])
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        cards = [device.index] if device.type == "cuda" else []
        with torch.random.fork_rng(cards), torch.no_grad():
            torch.manual_seed(self.run.training_args.seed + step)
            made = model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=self.run.args.sample_tokens,
                do_sample=True,
                use_cache=True,
                eos_token_id=self.stop_ids,
                pad_token_id=pad,
            )
        model.train(training)
        return [tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in made]


def prompt_of(row: dict[str, Any], run: Run) -> list[int]:
    """What a row's target follows: its prompt, or the bare header where everything is a target."""
    if "prompt_ids" in row:
        return list(row["prompt_ids"])
    masked = next((n for n, label in enumerate(row["labels"]) if label != data.IGNORED), 0)
    return list(row["input_ids"][:masked]) or list(run.chat.question_prefix_ids)
