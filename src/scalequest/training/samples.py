"""Sample texts that the model writes during training, for the terminal and the tracker."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from scalequest.training import data

if TYPE_CHECKING:
    from scalequest.tracking import Tracker

log = logging.getLogger(__name__)


class ShowSamples(TrainerCallback):
    """Lets the model continue the prompts of a few rows every few steps (for questions, the bare header).

    All ranks generate the same texts with the same seed: if the weights are sharded over the ranks, every
    rank has to take part, and one that waited would time out. The random state of training is restored
    afterwards, so sampling changes no weight.
    """

    def __init__(
        self,
        name: str,
        prompts: list[list[int]],
        tokenizer: Any,
        stop_ids: list[int],
        *,
        every: int,
        tokens: int,
        seed: int,
        together: bool,
        tracker: Tracker | None,
    ) -> None:
        """Set what to show.

        Args:
            name: the stage's name.
            prompts: the prompts' token ids.
            tokenizer: the model's tokenizer.
            stop_ids: the ids that end a text.
            every: the number of steps between two sets of texts.
            tokens: the maximum number of tokens of a text.
            seed: the run's seed.
            together: whether the weights are sharded over the ranks, so a rank that has finished must
                continue for the others.
            tracker: receives the texts, which are also logged.
        """
        self.name, self.prompts, self.tokenizer, self.stop_ids = name, prompts, tokenizer, stop_ids
        self.every, self.tokens, self.seed, self.together = every, tokens, seed, together
        self.tracker = tracker

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Generate and report; all ranks call this."""
        if state.global_step % self.every:
            return
        texts = self.generate(model, state.global_step)
        for text in texts:  # on ranks other than the main one, the log level suppresses them
            log.info("%s: sample at step %d: %s", self.name, state.global_step, " ".join(text.split())[:300])
        if self.tracker is not None:
            self.tracker.table("samples", [{"step": state.global_step, "text": text} for text in texts])

    def generate(self, model: Any, step: int) -> list[str]:
        """Continue each prompt once, as the data stages would: at temperature 1, with its own seed."""
        tokenizer, width = self.tokenizer, max(map(len, self.prompts))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in self.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in self.prompts])
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        cards = [device.index] if device.type == "cuda" else []
        with torch.random.fork_rng(cards), torch.no_grad():
            torch.manual_seed(self.seed + step)
            made = model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=self.tokens,
                do_sample=True,
                use_cache=True,
                eos_token_id=self.stop_ids,
                pad_token_id=pad,
                synced_gpus=self.together,
            )
        model.train(training)
        return [tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in made]


def prompt_of(row: dict[str, Any], header: list[int]) -> list[int]:
    """Return the ids before a row's target: its prompt, or the bare `header` if everything is a target."""
    if "prompt_ids" in row:
        return list(row["prompt_ids"])
    masked = next((n for n, label in enumerate(row["labels"]) if label != data.IGNORED), 0)
    return list(row["input_ids"][:masked]) or header
