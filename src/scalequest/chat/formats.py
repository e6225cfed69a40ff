"""Chat formats, token-exact: which ids a question, a prompt and a solution become on a given tokenizer.

A family's markup is one YAML file in `families/`. `load_format` reads it and `bind` joins it to a tokenizer;
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
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scalequest.config import ConfigError, build, option, read_yaml, required

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "families"
AUTO = "auto"
THINK, END_THINK = "<think>", "</think>"  # how thoughts are marked in every row, whatever the family's markup
_SLOT = re.compile(r"\{(question|response|text|thoughts)\}")
# What looks like a control token: one word in angle brackets. `<<SYS>>` is text in every family that has it.
_CONTROL = re.compile(r"(?<!<)<[^<>\s]+>(?!>)")
Mark = tuple[list[int], str]
_BRACKET = re.compile(r"[<>|｜\[\]]")


class FormatError(ValueError):
    """A text that a chat format cannot hold: its row is to be dropped. `str(error)` is the reason.

    One of `empty` (white space only), `not_unicode` (a lone surrogate), `special_token_in_text` (spells a
    control token), `prefix_unstable` (before this text, the prompt's tokens are not what the model is given),
    `unclosed_thoughts` (a `<think>` without its end, so that there is no answer).
    """


@dataclass(frozen=True)
class QuestionMarkup:
    """What stands around a question that a generator writes: `prefix` + `lead` + question + `end`."""

    prefix: str = required("what the generator is given, BOS apart")
    end: str = required("what follows the question in training; ends in a stop token")
    stops: tuple[str, ...] = required("tokens that end generation")
    lead: str = option("", "what the generator writes first: a space that its first token takes in")


@dataclass(frozen=True)
class ThinkingMarkup:
    """What stands around a solver's thoughts, in a family that has tokens of its own for them."""

    start: str = required("what comes before the thoughts, in place of the lead")
    end: str = required("what comes between the thoughts and the answer")


@dataclass(frozen=True)
class SolveMarkup:
    """What stands around a solution: `prompt` with its `{question}` + `lead` + response + `end`."""

    prompt: str = required("what the solver is given, BOS apart; has {question} once")
    end: str = required("what follows the response in training; ends in a stop token")
    stops: tuple[str, ...] = required("tokens that end generation")
    lead: str = option("", "what the solver writes first, as in a question")
    thinking: ThinkingMarkup | None = option(None, "how it marks its thoughts; null: <think> and </think>")

    @property
    def opens_thinking(self) -> bool:
        """Whether the prompt itself opens the thoughts, so that a response begins inside them."""
        return self.prompt.rstrip().endswith(THINK)


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
    plain: tuple[str, ...] = option((), "what looks like a control token but is text, e.g. <answer>")

    def __post_init__(self) -> None:
        """Refuse markup that cannot work on any tokenizer."""
        if self.user is not None and self.user.count("{text}") != 1:
            raise ConfigError("user: must contain {text} exactly once")
        if self.solve is not None and self.solve.prompt.count("{question}") != 1:
            raise ConfigError("solve.prompt: must contain {question} exactly once")
        for key, part in (("question", self.question), ("solve", self.solve)):
            if part is None:
                continue
            before = part.prefix if isinstance(part, QuestionMarkup) else part.prompt
            if before.endswith(" ") and not self.paper_exact:
                raise ConfigError(f"{key}: the prompt ends in a space; move the space to {key}.lead")
            if not part.end.endswith(part.stops):
                raise ConfigError(f"{key}.end: must end in one of {key}.stops")
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
            if (thinking := solve.thinking) is not None:
                thoughts = f"{thinking.start}{{thoughts}}{thinking.end}{{response}}"
                found["training on thoughts"] = solve.prompt + thoughts + solve.end
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
        marks: ids that mark thoughts and that decoding would lose, with the text that stands for them.
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
    marks: tuple[Mark, ...] = ()

    def question_ids(self, question: str) -> list[int]:
        """What a generator is trained on: `question_prefix_ids`, the question, its end; a stop id is last."""
        ids = self._ids("training on questions", question=question)
        _check_prefix(self.question_prefix_ids, ids)
        return ids

    def few_shot_prefix_ids(self, questions: Sequence[Sequence[int]]) -> list[int]:
        """What a generator is given after examples, each as `question_ids` returns it; BOS is there once."""
        start = 0 if self.bos_id is None else 1
        ids = [token for question in questions for token in question[start:]]
        return [*self.question_prefix_ids[:start], *ids, *self.question_prefix_ids[start:]]

    def solve_prompt_ids(self, question: str) -> list[int]:
        """What a solver is given, the boxed-answer instruction included where the family has one."""
        return self._ids("solving", question=question)

    def solve_ids(self, question: str, response: str) -> tuple[list[int], list[int]]:
        """What a solver is given, and the target after it: the response and its end; a stop id is last.

        Thoughts at the head of a response, between `<think>` and `</think>`, get the markup of the family.
        """
        prompt, solve = self.solve_prompt_ids(question), self.format.solve
        thoughts, answer = split_thoughts(response)
        if thoughts and solve is not None and solve.thinking is not None:
            ids = self._ids("training on thoughts", question=question, thoughts=thoughts, response=answer)
        else:
            if solve is not None and solve.opens_thinking:
                answer = _after_opening(response)
            elif thoughts:
                answer = response
            ids = self._ids("training on solutions", question=question, response=answer)
        _check_prefix(prompt, ids)
        return prompt, ids[len(prompt) :]

    def user_prompt_ids(self, text: str) -> list[int]:
        """Prompt for another request, e.g. to a judge or a rewriter: a user's turn with nothing of ours."""
        return self._ids("requests", text=text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out, stripped; thoughts are in `<think>`, `</think>`."""
        return _decoded(list(ids), self.marks, self.decode_part).strip()

    def decode_solution(self, ids: Sequence[int]) -> str:
        """As `decode`, with the `<think>` in front that the prompt had opened, if it did."""
        text, solve = self.decode(ids), self.format.solve
        return f"{THINK}\n{text}" if solve is not None and solve.opens_thinking else text

    def decode_reply(self, ids: Sequence[int]) -> str:
        """Text of a reply to `user_prompt_ids`, without its thoughts; "" if it has not got beyond them."""
        text, user = self.decode(ids), self.format.user
        return without_thoughts(text, opened=user is not None and user.rstrip().endswith(THINK))

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


def load_format(name_or_path: str, model: str | None = None, revision: str | None = None) -> ChatFormat:
    """Read the format of a family in `families/`, or of a YAML file of one's own, or draft it.

    Args:
        name_or_path: name, path, or `auto`: drafted from the chat template of the model's tokenizer.
        model: folder or hub id; needed for `auto`.
        revision: of the model on the hub.

    Raises:
        ConfigError: no such family, a fault in the file, or a template from which nothing can be drafted.
    """
    if name_or_path == AUTO:
        from scalequest.chat.jinja import draft_format

        if model is None:
            raise ConfigError("chat_format: 'auto' needs a model here; name a family or a YAML file")
        return draft_format(load_tokenizer(model, revision))
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        families = sorted(file.stem for file in TEMPLATES.glob("*.yaml"))
        if name_or_path not in families:
            close = get_close_matches(name_or_path, families, n=1)
            hint = (
                f"did you mean '{close[0]}'?"
                if close
                else f"give a YAML file or one of {', '.join((AUTO, *families))}"
            )
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
    """Join a format to a tokenizer; one line warns if the tokenizer's own template has other markup.

    Raises:
        ConfigError: what looks like a control token in the format is not one token of the tokenizer, or a
            text would have two BOS.
    """
    fmt = _with_own_tokens(fmt, tokenizer)
    if fast := getattr(tokenizer, "backend_tokenizer", None):  # what its file may ask for
        fast.no_truncation()
        fast.no_padding()
    texts = fmt.templates()
    parts: list[QuestionMarkup | SolveMarkup] = [fmt.question, *([fmt.solve] if fmt.solve else [])]
    ids = _control_ids(fmt, [*texts.values(), fmt.question.prefix, fmt.question.end], tokenizer)
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    special_ids = frozenset({*added, *tokenizer.all_special_ids, *ids.values()})

    def specials(template: str) -> list[int]:
        filled = _fill(template, dict.fromkeys(("question", "response", "text", "thoughts"), "x"))
        return [token for token in _encode(tokenizer, filled) if token in special_ids]

    bos_id = ids[fmt.bos] if fmt.bos else None
    _check_bos(fmt, tokenizer, bos_id)
    prefix = _encode(tokenizer, fmt.question.prefix)
    stops = [_stop_ids(part, ids) for part in parts]
    bound = BoundFormat(
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
        marks=_marks(fmt.solve, tokenizer, special_ids),
    )
    if os.environ.get("RANK", "0") == "0":  # one of many processes says it
        from scalequest.chat.jinja import warn_of_difference

        warn_of_difference(fmt, tokenizer)
    return bound


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


def _control_ids(fmt: ChatFormat, texts: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """Ids of all control tokens in a format's texts and of its stops and BOS.

    A control token with a slip in it is text to a tokenizer, and nothing would say so. So whatever looks like
    one has to be one, and what has a bracket and is close to one (`start_of_turn>`) is taken for a slip.

    Raises:
        ConfigError: something is none.
    """
    added = {entry.content: token for token, entry in tokenizer.added_tokens_decoder.items()}
    where = tokenizer.name_or_path or "this model"
    parts: list[QuestionMarkup | SolveMarkup] = [fmt.question, *([fmt.solve] if fmt.solve else [])]
    wanted = {fmt.bos} if fmt.bos else set()
    wanted.update(*(part.stops for part in parts))
    for text in texts:
        for literal in fmt.plain:
            text = text.replace(literal, " ")
        wanted.update(_CONTROL.findall(text))
        for word in _SLOT.sub(" ", _CONTROL.sub(" ", text)).split():
            if word not in added and _BRACKET.search(word) and (near := _nearest(word, added)):
                raise ConfigError(
                    f"chat_format: '{fmt.name}' has '{word}', which is not a token of {where}; did you mean "
                    f"'{near}'? If it is text, list it under 'plain'"
                )
    for token in sorted(wanted):
        if token not in added or _encode(tokenizer, token) != [added[token]]:
            near = _nearest(token, added)
            hint = (
                f"did you mean '{near}'?"
                if near
                else "choose its family, or list it under 'plain' if it is text"
            )
            raise ConfigError(
                f"chat_format: '{fmt.name}' needs '{token}', which is not a token of {where}: {hint}"
            )
    return {token: added[token] for token in sorted(wanted)}


def _nearest(word: str, added: dict[str, int]) -> str | None:
    return next(iter(get_close_matches(word, added, n=1, cutoff=0.8)), None)


def _check_bos(fmt: ChatFormat, tokenizer: Any, bos_id: int | None) -> None:
    """Count BOS ids in everything that a model is given or trained on.

    Raises:
        ConfigError: there would be two.
    """
    if fmt.paper_exact:
        return
    texts = {"question.prefix": fmt.question.prefix, "question.end": fmt.question.end, "user": fmt.user or ""}
    if fmt.solve is not None:
        texts |= {"solve.prompt": fmt.solve.prompt, "solve.end": fmt.solve.lead + fmt.solve.end}
    own = tokenizer.bos_token_id
    for key, text in texts.items():
        ids = _encode(tokenizer, text)
        doubled = own is not None and ids[:2] == [own, own]
        # Without `bos` the markup may begin with it, and in some families it opens every turn.
        if doubled or (bos_id is not None and (bos_id in ids or own in ids[:1])):
            raise ConfigError(
                f"chat_format: '{fmt.name}' has its BOS twice, in 'bos' and in {key}: leave one out"
            )


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


def split_thoughts(response: str) -> tuple[str | None, str]:
    """The thoughts at the head of a response, None if there are none, and the answer after them.

    Raises:
        FormatError: the thoughts are not closed, so that there is no answer.
    """
    head, closed, answer = response.strip().partition(END_THINK)
    if not head.startswith(THINK):
        return None, response
    if not closed:
        raise FormatError("unclosed_thoughts")
    return head.removeprefix(THINK).strip(), answer.strip()


def without_thoughts(reply: str, *, opened: bool = False) -> str:
    """The part of a reply after its thoughts; "" if they are not closed.

    Args:
        reply: of a judge or a rewriter.
        opened: whether the prompt had opened the thoughts.
    """
    try:
        return split_thoughts(f"{THINK}{reply}" if opened and not reply.startswith(THINK) else reply)[1]
    except FormatError:
        return ""


def _after_opening(response: str) -> str:
    """A response to a prompt that has opened the thoughts.

    Raises:
        FormatError: it does not close them, so that all of it would be thoughts.
    """
    if END_THINK not in response:
        raise FormatError("unclosed_thoughts")
    return response.lstrip().removeprefix(THINK)


def _marks(solve: SolveMarkup | None, tokenizer: Any, special_ids: frozenset[int]) -> tuple[Mark, ...]:
    """Ids that mark thoughts and are lost when text is decoded, with the text that stands for them."""
    vocabulary = tokenizer.get_vocab()
    tags = ((THINK, THINK), (END_THINK, END_THINK))
    found = [([vocabulary[tag]], text) for tag, text in tags if vocabulary.get(tag) in special_ids]
    if solve is not None and (thinking := solve.thinking) is not None:
        found.insert(0, (_encode(tokenizer, solve.lead), ""))
        if THINK not in thinking.start:
            found.append((_encode(tokenizer, thinking.end), f"\n{END_THINK}\n\n"))
            found.append((_encode(tokenizer, thinking.start), f"{THINK}\n"))
    return tuple((ids, text) for ids, text in found if ids)


def _decoded(ids: list[int], marks: tuple[Mark, ...], decode: Callable[[Sequence[int]], str]) -> str:
    """Text of ids, with a text in place of each mark."""
    said, begin, place = [], 0, 0
    while place < len(ids):
        mark = next((mark for mark in marks if ids[place : place + len(mark[0])] == mark[0]), None)
        if mark is None:
            place += 1
            continue
        said += [decode(ids[begin:place]), mark[1]]
        begin = place = place + len(mark[0])
    return "".join([*said, decode(ids[begin:])])


def _check_prefix(prefix: list[int], ids: list[int]) -> None:
    if ids[: len(prefix)] != prefix:
        raise FormatError("prefix_unstable")
