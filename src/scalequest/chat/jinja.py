"""Chat templates in both directions: from a chat format to Jinja, and from a tokenizer's template back.

`solver_template`, `generator_template` and `bare_template` write the template that a saved model carries, so
that any program that serves it (`vllm serve`, a pipeline, TRL, lm-eval) gives it the ids that it was trained
on. `draft_format` makes a format from a tokenizer's template, and `warn_of_difference` compares the two. To
learn what a template does, we render probe messages with it and split the result at the probes' words.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from scalequest.chat.formats import (
    AUTO,
    THINK,
    BoundFormat,
    ChatFormat,
    FormatError,
    QuestionMarkup,
    SolveMarkup,
    ThinkingMarkup,
    bind,
)
from scalequest.config import ConfigError

log = logging.getLogger(__name__)

# The instruction of our formats for solvers (docs/method.md 5); a model's own template has none.
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_USER, _ANSWER, _THOUGHTS = "PROBE7Q", "PROBE8A", "PROBE9T"
_DATE = datetime(2024, 7, 26)  # the date that Llama 3's template uses if it cannot know the date
_OWN_WAYS: tuple[Mapping[str, Any], ...] = ({}, {"enable_thinking": False})


# --------------------------------------------------------------------------------------------------- to Jinja

# The text of a message in the form that the harness accepts: stripped, not empty, and without control tokens.
_TEXT = """\
{%- macro text_of(message, may_be_empty=false) -%}
{%- set whole = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set whole.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] != 'text' -%}{{- raise_exception('This model reads text alone.') -}}{%- endif -%}
{%- set whole.text = whole.text + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- set text = whole.text | trim -%}
{%- if not text and not may_be_empty -%}{{- raise_exception('A message is empty.') -}}{%- endif -%}
{%- for token in control_tokens -%}
{%- set tag = message['role'] == 'assistant' and token in ['<think>', '</think>'] -%}
{%- if token in text and not tag -%}
{{- raise_exception('A message holds the control token ' + token) -}}
{%- endif -%}
{%- endfor -%}
{{- text -}}
{%- endmacro -%}
"""
_SOLVER = """\
{{- BOS + SYSTEM -}}
{%- for message in messages -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('Messages alternate, user first; a system message is part of this template already.') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- (BETWEEN if not loop.first else '') + OPENING + text_of(message) + CLOSING -}}
{%- if add_generation_prompt or not loop.last -%}{{- ANSWERING -}}{%- endif -%}
{%- else -%}
{%- set text = text_of(message) -%}
ANSWER
{%- if loop.last and add_generation_prompt -%}
{{- raise_exception('The last message is an answer: there is nothing to answer.') -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
"""
_PLAIN_ANSWER = "{{- LEAD + text + END -}}"
_OPENED_ANSWER = "{{- LEAD + (text[LENGTH:] | trim if text[:LENGTH] == THINK else text) + END -}}"
_THINKING_ANSWER = """\
{%- if text[:LENGTH] == THINK and '</think>' in text -%}
{%- set thoughts = text[LENGTH:].split('</think>')[0] -%}
{%- set answer = text[LENGTH + thoughts | length + 8:] | trim -%}
{{- (START + thoughts | trim + END_THOUGHTS if thoughts | trim else LEAD) + answer + END -}}
{%- else -%}
{{- LEAD + text + END -}}
{%- endif -%}"""
_GENERATOR = """\
{%- for message in messages -%}
{%- if loop.index0 > 1 or message['role'] != ('user' if loop.first else 'assistant') -%}
{{- raise_exception('This model writes one question: give it no message, or an empty one of the user.') -}}
{%- elif loop.first and text_of(message, true) -%}
{{- raise_exception('This model writes questions and answers none: leave the user message empty.') -}}
{%- endif -%}
{%- endfor -%}
{{- BOS + PREFIX -}}
{%- if messages | length > 1 -%}{{- LEAD + text_of(messages[1]) + END -}}{%- endif -%}
"""
_BARE = """\
{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}
{{- raise_exception('This model reads one question: give one message, of the user.') -}}
{%- endif -%}
{{- BOS + text_of(messages[0]) -}}
"""


def solver_template(chat: BoundFormat) -> str:
    """Return the template of a model that solves or scores, with the instruction in every user turn.

    A single user message with `add_generation_prompt` renders as `solve_prompt_ids`, and together with an
    answer as the ids of `solve_ids`. Further turns follow in the family's markup. The template raises an
    error for everything that the harness refuses.

    Raises:
        ConfigError: the format has no markup for solving.
    """
    fmt, solve = chat.format, chat.format.solve
    if solve is None:
        raise ConfigError(f"chat_format: '{fmt.name}' is not for solving: choose another")
    before, after = solve.prompt.split("{question}")
    ends = [stop for part in (solve, fmt.question) for stop in part.stops if part.end.endswith(stop)]
    system, opening = _cut_after_last(before, ends)
    closing, answering = _cut_after_first(after, ends)
    texts = {
        "SYSTEM": system,
        "BETWEEN": closing[len(closing.rstrip()) :] if answering else "",
        "OPENING": opening,
        "CLOSING": closing,
        "ANSWERING": answering,
        "LEAD": solve.lead,
        "END": solve.end,
        "THINK": THINK,
    }
    answer = _PLAIN_ANSWER
    if solve.thinking is not None:
        answer = _THINKING_ANSWER
        texts |= {"START": solve.thinking.start, "END_THOUGHTS": solve.thinking.end}
    elif solve.opens_thinking:
        answer = _OPENED_ANSWER
    return _written(chat, _SOLVER.replace("ANSWER\n", f"{answer}\n"), texts)


def generator_template(chat: BoundFormat) -> str | None:
    """Return the template of a model that writes questions; None for a format with `paper_exact`.

    No message, or an empty user message, renders as `question_prefix_ids`. An assistant message after it is a
    question, and renders as `question_ids`.
    """
    question = chat.format.question
    if chat.format.paper_exact:
        return None
    texts = {"PREFIX": question.prefix, "LEAD": question.lead, "END": question.end}
    return _written(chat, _GENERATOR, texts)


def bare_template(chat: BoundFormat) -> str:
    """Return the template of a model that reads a question without markup, as the tokenizer encodes it."""
    ids = chat.tokenizer("")["input_ids"]
    own = chat.tokenizer.bos_token if ids[:1] == [chat.tokenizer.bos_token_id] else None
    return _written(chat, _BARE, {"BOS": own or ""})


def _written(chat: BoundFormat, body: str, texts: Mapping[str, str]) -> str:
    """Return a complete template, in which Jinja literals replace the names in capital letters."""
    texts = {"BOS": chat.format.bos or "", "LENGTH": "", **texts}
    literals = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
    literals["LENGTH"] = str(len(THINK))
    names = re.compile(rf"\b(?:{'|'.join(literals)})\b")
    tokens = sorted(chat.tokenizer.convert_ids_to_tokens(sorted(chat.special_ids)))
    head = f"{{#- Made from the chat format {json.dumps(chat.format.name)}: do not edit. -#}}\n"
    control = f"{{%- set control_tokens = {json.dumps(tokens, ensure_ascii=False)} -%}}\n"
    return head + control + _TEXT + names.sub(lambda name: literals[name[0]], body).rstrip("\n")


def _cut_after_last(text: str, ends: Sequence[str]) -> tuple[str, str]:
    """Split after the system turn, its stop and the white space that follows, before the user turn opens."""
    places = [match.end() for end in ends for match in re.finditer(rf"{re.escape(end)}\s*", text)]
    place = max(places, default=0)
    return text[:place], text[place:]


def _cut_after_first(text: str, ends: Sequence[str]) -> tuple[str, str]:
    """Split after the end of the user turn, white space included, before the answer opens."""
    places = [match.end() for end in ends for match in re.finditer(rf"{re.escape(end)}\s*", text)]
    place = min(places, default=len(text))
    return text[:place], text[place:]


# ------------------------------------------------------------------------------------------------- from Jinja


@dataclass(frozen=True)
class OwnMarkup:
    """The markup that a tokenizer's own template puts around a user's text; BOS is separate."""

    bos: str | None
    before: str
    after: str


def own_markup(tokenizer: Any, **ways: Any) -> OwnMarkup | None:
    """Return the markup of a user turn and of the start of the answer in the tokenizer's own template.

    Returns None if there is no template, or if it refuses a user message.

    Args:
        tokenizer: the tokenizer.
        ways: variables of the template.
    """
    rendered = _rendered(tokenizer, [{"role": "user", "content": _USER}], prompt=True, **ways)
    if rendered is None or rendered.count(_USER) != 1:
        return None
    bos, text = _bos_apart(tokenizer, rendered)
    before, after = text.split(_USER)
    return OwnMarkup(bos, before, after)


def warn_of_difference(fmt: ChatFormat, tokenizer: Any) -> None:
    """Warn once, in one line, if a format's prompts differ from the tokenizer's own template."""
    found = [own for ways in _OWN_WAYS if (own := own_markup(tokenizer, **ways)) is not None]
    slots = [text.split(slot) for text, slot in _prompts(fmt) if slot in text]
    if not found or not slots or any(_agrees(own, before, after) for own in found for before, after in slots):
        return
    before, after = slots[0]
    ours, theirs = f"{before}…{after}", f"{found[0].before}…{found[0].after}"
    place = next(
        (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    where = tokenizer.name_or_path or "this model"
    _say_once(
        f"chat_format: '{fmt.name}' differs from the chat template of {where}: at character {place} it has "
        f"{ours[place : place + 24]!r}, but the template has {theirs[place : place + 24]!r}"
    )


def draft_format(tokenizer: Any) -> ChatFormat:
    """Draft a format from the tokenizer's own chat template, and log what cannot be derived from it.

    The draft is checked: for a request, it must give the same ids as the template.

    Raises:
        ConfigError: there is no template, or its output cannot be split into a format.
    """
    where = tokenizer.name_or_path or "this model"
    own = own_markup(tokenizer)
    if own is None:
        raise ConfigError(
            f"chat_format: auto: {where} has no chat template that accepts a user message; name a family or "
            "a YAML file"
        )
    said = []
    if "strftime_now" in str(tokenizer.chat_template):
        said.append(f"its date is fixed to {_DATE:%d %b %Y}")
    lead, end = _answer_of(tokenizer, own, said)
    stops = tuple(
        dict.fromkeys([_last_token(tokenizer, end), *([tokenizer.eos_token] if tokenizer.eos_token else [])])
    )
    turn = _rendered(tokenizer, [{"role": "user", "content": _USER}], prompt=False) or ""
    closing = _up_to_token(tokenizer, turn.rpartition(_USER)[2])
    said.append(f"a question ends like {'a user turn' if closing else 'an answer'}")
    closing = closing or end
    prefix = own.before.rstrip(" ")
    boxed = "\\boxed" in own.before + own.after
    said.append(
        "it has its own instruction for a boxed answer"
        if boxed
        else "our instruction for a boxed answer follows the question"
    )
    prompt = own.before + "{question}" + ("" if boxed else INSTRUCTION) + own.after
    spaces = prompt[len(prompt.rstrip(" ")) :]
    fmt = ChatFormat(
        name=AUTO,
        bos=own.bos,
        pad=_pad_of(tokenizer, (*stops, _last_token(tokenizer, closing)), said),
        question=QuestionMarkup(
            prefix=prefix,
            lead=own.before[len(prefix) :],
            end=closing.rstrip(),
            stops=tuple(dict.fromkeys([_last_token(tokenizer, closing), *stops])),
        ),
        user=own.before + "{text}" + own.after,
        solve=SolveMarkup(
            prompt=prompt.rstrip(" "),
            lead=spaces + lead,
            end=end,
            stops=stops,
            thinking=_thinking_of(tokenizer, own, lead),
        ),
    )
    _check_draft(fmt, tokenizer, where)
    _say_once(f"chat_format: auto: drafted from the chat template of {where}; {'; '.join(said)}")
    return fmt


def _answer_of(tokenizer: Any, own: OwnMarkup, said: list[str]) -> tuple[str, str]:
    """Return the template's text between the prompt and an answer, and the text that ends the answer."""
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    rendered = _rendered(tokenizer, messages, prompt=False)
    if rendered is None or rendered.count(_ANSWER) != 1:
        raise ConfigError(
            "chat_format: auto: the chat template accepts no assistant message; write a YAML file"
        )
    head, tail = _bos_apart(tokenizer, rendered)[1].split(_ANSWER)
    prompt = own.before + _USER + own.after
    lead = head[len(prompt) :] if head.startswith(prompt) else ""
    if not head.startswith(prompt):
        said.append("it renders a given answer differently from one to be generated; we use the latter form")
    end = _up_to_token(tokenizer, tail)
    if end is None:
        if not tokenizer.eos_token:
            raise ConfigError(
                "chat_format: auto: the chat template ends an answer without a token; write a YAML file"
            )
        said.append("it ends an answer without a token, so we add the eos token")
        end = tail.rstrip() + str(tokenizer.eos_token)
    return lead, end


def _thinking_of(tokenizer: Any, own: OwnMarkup, lead: str) -> ThinkingMarkup | None:
    """Return the markup of thoughts; None if the template drops them, or uses the usual tags and no lead."""
    thoughts = dict.fromkeys(("thinking", "reasoning", "reasoning_content"), _THOUGHTS)
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER, **thoughts}]
    rendered = _rendered(tokenizer, messages, prompt=False) or ""
    prompt = own.before + _USER + own.after
    around = re.fullmatch(f"(.*){_THOUGHTS}(.*){_ANSWER}.*", _bos_apart(tokenizer, rendered)[1], re.DOTALL)
    if around is None or not around[1].startswith(prompt):
        return None
    start = around[1].removeprefix(prompt)
    return ThinkingMarkup(start=start, end=around[2]) if lead or THINK not in start else None


def _pad_of(tokenizer: Any, ends: Sequence[str], said: list[str]) -> str:
    """Return the tokenizer's pad token unless texts end in it, or else another pad token or a new one."""
    own = [tokenizer.pad_token] if tokenizer.pad_token else []
    named = [
        entry.content for entry in tokenizer.added_tokens_decoder.values() if "pad" in entry.content.lower()
    ]
    usable = [token for token in (*own, *named) if token not in ends]
    if not usable:
        said.append("a new pad token, [PAD], is added")
    return usable[0] if usable else "[PAD]"


def _check_draft(fmt: ChatFormat, tokenizer: Any, where: str) -> None:
    """Compare the ids of the draft with those of the template, for another text than the probe."""
    text = "What is 3 + 4?"
    try:
        ids = bind(fmt, tokenizer).user_prompt_ids(text)
    except FormatError as error:
        raise ConfigError(f"chat_format: auto: the draft cannot represent '{text}': {error}") from error
    rendered = _rendered(tokenizer, [{"role": "user", "content": text}], prompt=True)
    if ids != tokenizer(rendered, add_special_tokens=False)["input_ids"]:
        raise ConfigError(
            f"chat_format: auto: the draft and {where}'s template give different ids; write a YAML file"
        )


def _rendered(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool, **ways: Any) -> str | None:
    """Render messages with the tokenizer's own template; None if it has none, or if it refuses them."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=prompt,
                strftime_now=_DATE.strftime,
                **ways,
            )
        )
    except Exception:  # a template is somebody else's program, and may fail in any way
        return None


def _bos_apart(tokenizer: Any, rendered: str) -> tuple[str | None, str]:
    """Split off BOS. A BOS that occurs again is markup, because it may be ChatML's `<|im_start|>`."""
    bos = tokenizer.bos_token
    if not bos or not rendered.startswith(bos) or rendered.count(bos) > 1:
        return None, rendered
    return bos, rendered[len(bos) :]


def _prompts(fmt: ChatFormat) -> list[tuple[str, str]]:
    solve = fmt.solve.prompt if fmt.solve is not None else ""
    return [(fmt.user or "", "{text}"), (solve, "{question}")]


def _agrees(own: OwnMarkup, before: str, after: str) -> bool:
    """Return whether a prompt has the template's markup, with or without an instruction after the text."""
    return own.before == before and after.endswith(own.after)


def _up_to_token(tokenizer: Any, text: str) -> str | None:
    """Return a text up to and including its first added token; None if it has none."""
    places = [
        (place, -len(entry.content), place + len(entry.content))
        for entry in tokenizer.added_tokens_decoder.values()
        if entry.content.strip() and (place := text.find(entry.content)) >= 0
    ]
    return text[: min(places)[2]] if places else None


def _last_token(tokenizer: Any, text: str) -> str:
    """Return the added token with which a text ends."""
    text = text.rstrip()
    tokens = [entry.content for entry in tokenizer.added_tokens_decoder.values()]
    return str(max((token for token in tokens if text.endswith(token)), key=len))


@cache
def _say_once(line: str) -> None:
    log.warning("%s", line)
