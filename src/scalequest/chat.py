"""Chat formats, token-exact: which ids a question, a prompt and a solution become on a given tokenizer.

A family's markup is one YAML file in `templates/`. `load_format` reads it and `bind` joins it to a tokenizer;
what comes out gives ids and never text, so that nothing downstream tokenises again. Three rules keep what is
generated equal to what is trained on:

- A text is encoded once and whole, markup included, and then checked: the ids of the prefix or prompt alone
  have to be its first ids. Encoded in pieces, a boundary can split otherwise (`User: ` and `What` are not
  `User:` and ` What`), and SentencePiece (Mistral) puts a dummy space before every piece, where the whole has
  one, in front of everything.
- BOS is one id that we put in; tokenizers are told to add nothing.
- Text cannot spell a special token: the special ids of the whole have to be those of the markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, build, option, read_yaml, required

TEMPLATES = Path(__file__).parent / "templates"
_SLOT = re.compile(r"\{(question|response|text)\}")
# Control tokens as ChatML, Llama 3, DeepSeek and TinyMath spell them.
_CONTROL = re.compile(r"<[|｜][^<>\s]+[|｜]>")


class FormatError(ValueError):
    """A text that a chat format cannot hold: its row is to be dropped. `str(error)` is the reason.

    One of `empty` (white space only), `not_unicode` (a lone surrogate), `special_token_in_text` (spells a
    control token), `prefix_unstable` (before this text, the prompt's tokens are not what the model is given).
    """


@dataclass(frozen=True)
class QuestionMarkup:
    """What stands around a question that a generator writes: `prefix` + `lead` + question + `end`."""

    prefix: str = required("what the generator is given, BOS apart")
    end: str = required("what follows the question in training; ends in a stop token")
    stops: tuple[str, ...] = required("tokens that end generation")
    lead: str = option("", "what the generator writes first: a space that its first token takes in")


@dataclass(frozen=True)
class SolveMarkup:
    """What stands around a solution: `prompt` with its `{question}` + `lead` + response + `end`."""

    prompt: str = required("what the solver is given, BOS apart; has {question} once")
    end: str = required("what follows the response in training; ends in a stop token")
    stops: tuple[str, ...] = required("tokens that end generation")
    lead: str = option("", "what the solver writes first, as in a question")


@dataclass(frozen=True)
class ChatFormat:
    """A family's markup.

    `{eos}` in an end or a stop is the tokenizer's own; so is a `bos` of `{bos}` where the tokenizer adds one.
    """

    name: str = required("the family")
    pad: str = required("pad token, added where the tokenizer has none such; never what training ends with")
    question: QuestionMarkup = required("how questions are generated")
    solve: SolveMarkup | None = option(None, "how questions are solved; null: not for solving")
    user: str | None = option(None, "prompt for any other request, {text}; null: not for requests")
    bos: str | None = option(None, "put before every text, once; null: none")
    paper_exact: bool = option(False, "a prefix with the published code's faults; not for training")

    def __post_init__(self) -> None:
        """Refuse markup that cannot work on any tokenizer."""
        if self.user is not None and self.user.count("{text}") != 1:
            raise ConfigError("user: has to hold {text} exactly once")
        if self.solve is not None and self.solve.prompt.count("{question}") != 1:
            raise ConfigError("solve.prompt: has to hold {question} exactly once")
        for key, part in (("question", self.question), ("solve", self.solve)):
            if part is None:
                continue
            before = part.prefix if isinstance(part, QuestionMarkup) else part.prompt
            if before.endswith(" ") and not self.paper_exact:
                raise ConfigError(f"{key}: what the model is given ends in a space: move that to {key}.lead")
            if not part.end.endswith(part.stops):
                raise ConfigError(f"{key}.end: has to end in one of {key}.stops")
            if part.end.endswith(self.pad):
                raise ConfigError(f"pad: '{self.pad}' is what {key}.end ends in, and padding would hide it")

    def templates(self) -> dict[str, str]:
        """Whole texts with slots, BOS apart, by what they are for."""
        question, solve = self.question, self.solve
        found: dict[str, str] = {}
        if not self.paper_exact:
            found["training on questions"] = question.prefix + question.lead + "{question}" + question.end
        if solve is not None:
            found["solving"] = solve.prompt
            found["training on solutions"] = solve.prompt + solve.lead + "{response}" + solve.end
        if self.user is not None:
            found["requests"] = self.user
        return found


@dataclass(frozen=True)
class BoundFormat:
    """A format on a tokenizer, made by `bind`. Texts are stripped before they are encoded.

    Methods that make ids raise `FormatError` where the text cannot be held, and `ConfigError` where the
    format has no markup for what is asked.

    Attributes:
        format: the markup, `{bos}` and `{eos}` filled in.
        tokenizer: the tokenizer.
        question_prefix_ids: what a generator is given, BOS included.
        question_stop_ids: ids that end a generated question; the one trained on first.
        solve_stop_ids: the same for solutions and other answers; empty where the format is not for solving.
        bos_id: id put before every text, or None.
        eos_id: last id of every solution (of every question, where the format is not for solving).
        pad_id: id of the pad token, or None until `prepare_tokenizer_and_model` has added it.
        special_ids: ids that no text may hold.
        templates: by what they are for, texts with slots and the special ids of their markup.
    """

    format: ChatFormat
    tokenizer: Any
    question_prefix_ids: list[int]
    question_stop_ids: list[int]
    solve_stop_ids: list[int]
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    special_ids: frozenset[int]
    templates: dict[str, tuple[str, list[int]]]

    def question_ids(self, question: str) -> list[int]:
        """What a generator is trained on: `question_prefix_ids`, the question, its end; a stop id is last."""
        ids = self._ids("training on questions", question=question)
        _check_prefix(self.question_prefix_ids, ids)
        return ids

    def solve_prompt_ids(self, question: str) -> list[int]:
        """What a solver is given, the boxed-answer instruction included where the family has one."""
        return self._ids("solving", question=question)

    def solve_ids(self, question: str, response: str) -> tuple[list[int], list[int]]:
        """What a solver is given, and the target after it: the response and its end; a stop id is last."""
        prompt = self.solve_prompt_ids(question)
        ids = self._ids("training on solutions", question=question, response=response)
        _check_prefix(prompt, ids)
        return prompt, ids[len(prompt) :]

    def user_prompt_ids(self, text: str) -> list[int]:
        """Prompt for another request, e.g. to a judge or a rewriter: a user's turn with nothing of ours."""
        return self._ids("requests", text=text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out, stripped."""
        return self.decode_part(ids).strip()

    def decode_part(self, ids: Sequence[int]) -> str:
        """Text of some of the generated ids, special tokens left out, with the space around it."""
        # Some released tokenizers ask for a clean-up of " ." and " n't", which would rewrite the question.
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _ids(self, use: str, **texts: str) -> list[int]:
        if use not in self.templates:
            raise ConfigError(f"chat_format: '{self.format.name}' is not for {use}: choose another")
        template, specials = self.templates[use]
        ids = _encode(self.tokenizer, _fill(template, {slot: _clean(text) for slot, text in texts.items()}))
        if [token for token in ids if token in self.special_ids] != specials:
            raise FormatError("special_token_in_text")
        return ids if self.bos_id is None else [self.bos_id, *ids]


def load_format(name_or_path: str) -> ChatFormat:
    """Read the format of a family in `templates/`, or of a YAML file of one's own.

    Raises:
        ConfigError: no such family, or a fault in the file.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        families = sorted(file.stem for file in TEMPLATES.glob("*.yaml"))
        if name_or_path not in families:
            close = get_close_matches(name_or_path, families, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"give a YAML file or {', '.join(families)}"
            raise ConfigError(f"chat_format: no family '{name_or_path}'; {hint}")
        path = TEMPLATES / f"{name_or_path}.yaml"
    fmt: ChatFormat = build((ChatFormat,), read_yaml(path), str(path))[0]
    return fmt


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model folder or hub id, as its `tokenizer.json` says where it has one.

    AutoTokenizer goes by the class that the repository names. DeepSeekMath names LlamaTokenizerFast, for
    which transformers 5 sets up SentencePiece's spaces over a byte-level vocabulary: "a b" is then encoded
    as "ab", and nothing says so (huggingface/transformers issue 48206). What that class is for, putting the
    BOS first where `add_bos_token` asks for it, is done here.

    Raises:
        ConfigError: there is no tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    optional = {"_raise_exceptions_for_missing_entries": False}
    try:
        found = cached_file(path, "tokenizer.json", revision=revision, **optional)
        if found is None:
            return AutoTokenizer.from_pretrained(path, revision=revision, use_fast=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, revision=revision)
        settings = cached_file(path, "tokenizer_config.json", revision=revision, **optional)
        if settings and json.loads(Path(settings).read_text(encoding="utf-8")).get("add_bos_token"):
            _put_bos_first(tokenizer)
        return tokenizer
    except Exception as error:  # the library of a cut tokenizer.json raises nothing more precise
        raise ConfigError(f"{path}: no tokenizer: {str(error).strip().partition(chr(10))[0]}") from error


def _put_bos_first(tokenizer: Any) -> None:
    """Let the tokenizer begin every text with its BOS, if it does not; saved, it goes on doing so."""
    from tokenizers import processors

    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    if bos_id is None or tokenizer("")["input_ids"][:1] == [bos_id]:
        return
    fast = tokenizer.backend_tokenizer
    first = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )
    fast.post_processor = processors.Sequence([fast.post_processor, first]) if fast.post_processor else first


def bind(fmt: ChatFormat, tokenizer: Any) -> BoundFormat:
    """Join a format to a tokenizer.

    Raises:
        ConfigError: a control token of the format is not one token of the tokenizer.
    """
    fmt = _with_own_tokens(fmt, tokenizer)
    if fast := getattr(tokenizer, "backend_tokenizer", None):  # what its file may ask for
        fast.no_truncation()
        fast.no_padding()
    texts = fmt.templates()
    parts: list[QuestionMarkup | SolveMarkup] = [fmt.question, *([fmt.solve] if fmt.solve else [])]
    control = set(_CONTROL.findall(" ".join([*texts.values(), fmt.question.prefix, fmt.question.end])))
    control.update(*(part.stops for part in parts), [fmt.bos] if fmt.bos else [])
    ids = {token: _one_id(token, tokenizer, fmt.name) for token in sorted(control)}
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    special_ids = frozenset({*added, *tokenizer.all_special_ids, *ids.values()})

    def specials(template: str) -> list[int]:
        filled = _fill(template, dict.fromkeys(("question", "response", "text"), "x"))
        return [token for token in _encode(tokenizer, filled) if token in special_ids]

    bos_id = ids[fmt.bos] if fmt.bos else None
    prefix = _encode(tokenizer, fmt.question.prefix)
    if bos_id in prefix and not fmt.paper_exact:
        raise ConfigError(f"chat_format: '{fmt.name}' has its BOS twice, in 'bos' and in question.prefix")
    stops = [_stop_ids(part, ids) for part in parts]
    return BoundFormat(
        format=fmt,
        tokenizer=tokenizer,
        question_prefix_ids=prefix if bos_id is None else [bos_id, *prefix],
        question_stop_ids=stops[0],
        solve_stop_ids=stops[1] if fmt.solve else [],
        bos_id=bos_id,
        eos_id=stops[-1][0],
        pad_id=tokenizer.get_vocab().get(fmt.pad),
        special_ids=special_ids,
        templates={use: (template, specials(template)) for use, template in texts.items()},
    )


def prepare_tokenizer_and_model(model: Any, tokenizer: Any, fmt: ChatFormat) -> BoundFormat:
    """Make a model and its tokenizer, in place, ready to be trained in a format and to stop when loaded.

    The pad token becomes the format's, added where the tokenizer has none such; embeddings grow only where
    the model has no spare row for it, to a multiple of 64, new rows at the mean of the old ones (DART-Math's
    way, docs/method.md 6). The tokenizer's eos becomes what training ends with, and `generation_config` stops
    at every stop of the format.

    Args:
        model: a transformers model; under DeepSpeed ZeRO-3 its weights may be partitioned.
        tokenizer: its tokenizer.
        fmt: the format that it will be trained in.

    Returns:
        The format, bound to the changed tokenizer.
    """
    tokenizer.add_special_tokens({"pad_token": fmt.pad})  # adds nothing where the token exists
    chat = bind(fmt, tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.eos_id)
    rows = model.get_input_embeddings().num_embeddings  # the weight's own shape is empty under ZeRO-3
    wanted = max(tokenizer.get_vocab().values()) + 1
    if wanted > rows:
        model.resize_token_embeddings(wanted, pad_to_multiple_of=64, mean_resizing=False)
        _set_to_mean(model, rows)
    if model.get_input_embeddings().padding_idx is not None:
        # This row gets no gradient; in checkpoints that pad with eos, eos would not be trained.
        model.get_input_embeddings().padding_idx = chat.pad_id
    model.config.pad_token_id, model.config.eos_token_id = chat.pad_id, chat.eos_id
    generation = getattr(model, "generation_config", None)  # a scorer has none
    if generation is not None:
        stops = [chat.eos_id, *chat.solve_stop_ids, *chat.question_stop_ids]
        generation.eos_token_id = list(dict.fromkeys(stops))
        generation.pad_token_id, generation.bos_token_id = chat.pad_id, chat.bos_id
    return chat


def _set_to_mean(model: Any, rows: int) -> None:
    """Set the rows after the first `rows`, of embeddings and head, to the mean of the first."""
    import torch
    from transformers.integrations import is_deepspeed_zero3_enabled

    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    for weight in {id(module.weight): module.weight for module in modules if module is not None}.values():
        gathered: Any = nullcontext()
        if is_deepspeed_zero3_enabled():
            import deepspeed

            gathered = deepspeed.zero.GatheredParameters(weight, modifier_rank=0)
        with torch.no_grad(), gathered:
            weight[rows:] = weight[:rows].float().mean(dim=0).to(weight.dtype)


def _with_own_tokens(fmt: ChatFormat, tokenizer: Any) -> ChatFormat:
    """Fill in `{bos}` and `{eos}`."""

    def fill(text: str) -> str:
        if "{eos}" in text and not tokenizer.eos_token:
            raise ConfigError(f"chat_format: '{fmt.name}' ends with the tokenizer's eos, and it has none")
        return text.replace("{eos}", tokenizer.eos_token or "")

    bos = fmt.bos
    if bos == "{bos}":
        adds = tokenizer.bos_token is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        bos = tokenizer.bos_token if adds else None
    question, solve = fmt.question, fmt.solve
    question = replace(question, end=fill(question.end), stops=tuple(map(fill, question.stops)))
    if solve is not None:
        solve = replace(solve, end=fill(solve.end), stops=tuple(map(fill, solve.stops)))
    return replace(fmt, bos=bos, question=question, solve=solve)


def _one_id(token: str, tokenizer: Any, name: str) -> int:
    ids = _encode(tokenizer, token)
    if len(ids) != 1 or ids[0] != tokenizer.convert_tokens_to_ids(token):
        where = tokenizer.name_or_path or "this model"
        raise ConfigError(f"chat_format: '{name}' needs '{token}', no token of {where}: choose its family")
    return ids[0]


def _stop_ids(part: QuestionMarkup | SolveMarkup, ids: dict[str, int]) -> list[int]:
    """Stop ids, each once, the one that training ends with first."""
    last = max((stop for stop in part.stops if part.end.endswith(stop)), key=len)
    return list(dict.fromkeys([ids[last], *(ids[stop] for stop in part.stops)]))


def _encode(tokenizer: Any, text: str) -> list[int]:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
    # What transformers calls, less its bookkeeping: as much time again, held against all other threads.
    return list(fast.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def _fill(template: str, texts: dict[str, str]) -> str:
    """Fill all slots in one pass: a question that spells "{response}" is text."""
    return _SLOT.sub(lambda slot: texts[slot[1]], template)


def _clean(text: str) -> str:
    text = text.strip()
    if not text:
        raise FormatError("empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError("not_unicode") from None
    return text


def _check_prefix(prefix: list[int], ids: list[int]) -> None:
    if ids[: len(prefix)] != prefix:
        raise FormatError("prefix_unstable")
