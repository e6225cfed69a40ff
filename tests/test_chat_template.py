"""Chat templates: a saved model's gives the ids that it was trained on; others' are drafted into formats."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

import real_tokenizers
from scalequest.chat import (
    TEMPLATES,
    BoundFormat,
    bare_template,
    bind,
    generator_template,
    load_format,
    load_tokenizer,
    solver_template,
)
from scalequest.chat import jinja as chat_template
from scalequest.chat.jinja import draft_format
from scalequest.config import ConfigError

QUESTION = "What is 12 + 7,\n if x < 5 and \\frac{1}{2}?"
RESPONSE = "12 + 7 = 19, so it is \\boxed{19}."
THOUGHT = f"<think>\nTwelve and seven.\n</think>\n\n{RESPONSE}"

# Every family, and the tokenizer that it is tried on. Gemma's has to be fetched.
TOKENIZERS = {
    "alpaca": "mistral",
    "deepseek_math": "deepseek",
    "gpt_oss": "gpt_oss",
    "llama3": "llama3",
    "llama3_2": "llama3",
    "mistral": "mistral",
    "phi4": "phi4",
    "qwen2_5_math": "qwen2",
    "qwen2_math": "qwen2",
    "qwen3": "qwen3",
    "qwen3_no_think": "qwen3",
    "r1_distill": "r1_distill",
    "smollm2": "smollm2",
    "tinymath": "tinymath",
}
FETCHED = [pytest.param("gemma3", marks=pytest.mark.hub)]
# Tokenizers and templates of released models, as TRL has them, and the format of ours for each.
OWN = [
    ("qwen3", "qwen3", "qwen3"),
    ("llama3", "llama3", "llama3"),
    ("llama3", "llama3_2", "llama3_2"),
    ("gpt_oss", "gptoss", "gpt_oss"),
    ("r1_distill", "deepseek_r1_distill", "r1_distill"),
]
Load = Callable[[str], Any]
Ids = Callable[..., list[int]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root, loaded = tmp_path_factory.getbasetemp(), {}

    def find(name: str) -> Any:
        """Loaded once; each test sets the chat template that it needs."""
        if name not in loaded:
            loaded[name] = load_tokenizer(str(real_tokenizers.built(name, root)))
        loaded[name].chat_template = None
        return loaded[name]

    return find


@pytest.fixture(autouse=True)
def _nothing_said_before() -> None:
    """A process says each line once."""
    chat_template._say_once.cache_clear()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def rendered(tokenizer: Any, *messages: dict[str, Any], prompt: bool = True) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=prompt, return_dict=False
    )
    return ids


def with_template(load: Load, family: str, make: Callable[[BoundFormat], str | None]) -> BoundFormat:
    """A format on its tokenizer, which has the template."""
    tokenizer = load(TOKENIZERS.get(family, family))
    bound = bind(load_format(family), tokenizer)
    tokenizer.chat_template = make(bound)
    return bound


# ---------------------------------------------------------------------------------------------- what is saved


def test_every_family_is_tried() -> None:
    names = {file.stem for file in TEMPLATES.glob("*.yaml")}
    assert names == {*TOKENIZERS, "gemma3", "internlm2_reward", "deepseek_math_released"}


@pytest.mark.parametrize("family", [*TOKENIZERS, *FETCHED])
def test_a_solver_is_asked_as_it_was_trained(load: Load, family: str) -> None:
    bound = with_template(load, family, solver_template)
    saved = bound.tokenizer
    response = THOUGHT if family == "r1_distill" else RESPONSE
    prompt, target = bound.solve_ids(QUESTION, response)
    assert rendered(saved, user(QUESTION)) == prompt
    assert rendered(saved, user(f" {QUESTION}\n")) == prompt
    assert rendered(saved, user([{"type": "text", "text": QUESTION}])) == prompt
    assert rendered(saved, user(QUESTION), assistant(response), prompt=False) == prompt + target
    assert prompt.count(bound.bos_id) == (bound.bos_id is not None)


def test_the_template_is_saved_with_the_tokenizer(load: Load, tmp_path: Path) -> None:
    bound = with_template(load, "tinymath", solver_template)
    bound.tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    prompt = bound.solve_prompt_ids(QUESTION)
    assert rendered(load_tokenizer(str(tmp_path)), user(QUESTION)) == prompt


@pytest.mark.parametrize("family", ["qwen3", "gpt_oss", "tinymath"])
def test_thoughts_are_rendered_as_they_were_trained(load: Load, family: str) -> None:
    bound = with_template(load, family, solver_template)
    prompt, target = bound.solve_ids(QUESTION, THOUGHT)
    assert rendered(bound.tokenizer, user(QUESTION), assistant(THOUGHT), prompt=False) == prompt + target


@pytest.mark.parametrize("family", ["llama3", "qwen2_math", "mistral", "deepseek_math", "tinymath"])
def test_further_turns_follow_in_the_familys_markup(load: Load, family: str) -> None:
    """The first exchange keeps its ids, the system turn comes once, and each turn has its end."""
    bound = with_template(load, family, solver_template)
    asked = rendered(bound.tokenizer, user(QUESTION), assistant(RESPONSE), user(QUESTION))
    prompt, target = bound.solve_ids(QUESTION, RESPONSE)
    assert asked[: len(prompt + target)] == prompt + target
    text = bound.tokenizer.decode(asked)
    assert text.count("You are a helpful assistant.") == (family == "qwen2_math")
    assert asked.count(bound.bos_id) == (bound.bos_id is not None)
    if family == "qwen2_math":
        assert "<|im_end|>\n<|im_start|>user\nWhat" in text[text.index("boxed{19}") :]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "system", "content": "Be kind."}, user("x")], "a system message is part of this template"),
        ([user("x"), user("y")], "Messages alternate"),
        ([user("What is 2<|im_end|>3?")], "holds the control token <|im_end|>"),
        ([user(" \n")], "A message is empty"),
        ([user([{"type": "image", "image": "x"}])], "reads text alone"),
        ([user("x"), assistant("y")], "nothing to answer"),
    ],
)
def test_what_the_harness_refuses_is_an_error(load: Load, messages: list[dict[str, Any]], said: str) -> None:
    bound = with_template(load, "qwen2_math", solver_template)
    with pytest.raises(TemplateError, match=said):
        rendered(bound.tokenizer, *messages)


@pytest.mark.parametrize("family", [*TOKENIZERS, *FETCHED])
def test_a_generator_is_given_its_prefix(load: Load, family: str) -> None:
    bound = with_template(load, family, generator_template)
    assert rendered(bound.tokenizer, user("")) == bound.question_prefix_ids
    assert bound.tokenizer.apply_chat_template([[]], return_dict=False) == [bound.question_prefix_ids]
    trained = rendered(bound.tokenizer, user(""), assistant(QUESTION), prompt=False)
    assert trained == bound.question_ids(QUESTION)
    with pytest.raises(TemplateError, match="answers none"):
        rendered(bound.tokenizer, user(QUESTION))


def test_a_format_with_the_published_faults_has_no_template(load: Load) -> None:
    bound = bind(load_format("deepseek_math_released"), load("deepseek"))
    assert generator_template(bound) is None


@pytest.mark.parametrize("family", ["qwen2_math", "llama3", "mistral"])
def test_a_scorer_of_bare_questions_reads_what_it_was_trained_on(load: Load, family: str) -> None:
    bound = with_template(load, family, bare_template)
    assert rendered(bound.tokenizer, user(QUESTION)) == bound.tokenizer(QUESTION)["input_ids"]


# ------------------------------------------------------------------------------------------- what others' say


def own(load: Load, name: str, template: str) -> Any:
    tokenizer = load(name)
    tokenizer.chat_template = (files("trl") / "chat_templates" / f"{template}.jinja").read_text()
    return tokenizer


@pytest.mark.parametrize(("name", "template", "family"), OWN)
def test_a_draft_has_the_ids_of_the_template_and_of_our_format(
    load: Load, name: str, template: str, family: str
) -> None:
    tokenizer = own(load, name, template)
    draft, ours = bind(draft_format(tokenizer), tokenizer), bind(load_format(family), tokenizer)
    given = tokenizer.apply_chat_template(
        [user(QUESTION)], add_generation_prompt=True, return_dict=False, date_string="26 Jul 2024",
        strftime_now=lambda how: {"%Y-%m-%d": "2024-07-26"}.get(how, "26 Jul 2024"),
    )  # fmt: skip
    assert draft.user_prompt_ids(QUESTION) == given
    assert draft.user_prompt_ids(QUESTION) == ours.user_prompt_ids(QUESTION)
    assert draft.question_prefix_ids == ours.question_prefix_ids
    assert draft.solve_ids(QUESTION, THOUGHT) == ours.solve_ids(QUESTION, THOUGHT)
    assert draft.question_ids(QUESTION) == ours.question_ids(QUESTION)
    if family != "r1_distill":
        assert draft.solve_ids(QUESTION, RESPONSE) == ours.solve_ids(QUESTION, RESPONSE)


def test_a_draft_says_what_the_template_does_not_tell(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        draft_format(own(load, "llama3", "llama3_2"))
    said = [line for line in caplog.messages if "drafted" in line]
    assert len(said) == 1
    assert "our instruction for a boxed answer" in said[0]
    assert "its date is fixed to 26 Jul 2024" in said[0]


def test_a_draft_of_our_own_template_is_our_format(load: Load) -> None:
    """A model that was trained here and is trained on, or evaluated, with `auto`."""
    bound = with_template(load, "qwen2_math", solver_template)
    draft = bind(draft_format(bound.tokenizer), bound.tokenizer)
    assert draft.solve_ids(QUESTION, RESPONSE) == bound.solve_ids(QUESTION, RESPONSE)


def test_auto_reads_the_models_tokenizer(load: Load, tmp_path: Path) -> None:
    with_template(load, "tinymath", solver_template).tokenizer.save_pretrained(tmp_path)
    assert load_format("auto", str(tmp_path)).name == "auto"
    with pytest.raises(ConfigError, match="needs a model here"):
        load_format("auto")


def test_no_template_is_no_draft(load: Load) -> None:
    with pytest.raises(ConfigError, match="has no chat template that accepts a user message"):
        draft_format(load("tinymath"))


@pytest.mark.parametrize(("name", "template", "family"), OWN)
def test_a_format_that_is_the_templates_is_bound_in_silence(
    load: Load, caplog: pytest.LogCaptureFixture, name: str, template: str, family: str
) -> None:
    with caplog.at_level(logging.WARNING):
        bind(load_format(family), own(load, name, template))
    assert not [line for line in caplog.messages if "differs from the chat template" in line]


def test_a_difference_from_the_template_is_said_in_one_line(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = own(load, "llama3", "llama3_2")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            bind(load_format("llama3"), tokenizer)
    said = [line for line in caplog.messages if "differs from the chat template" in line]
    assert len(said) == 1
    assert "'llama3'" in said[0]
    assert "\n" not in said[0]
