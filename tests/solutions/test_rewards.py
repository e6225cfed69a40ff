from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalequest.chat import FormatError, bind, load_format, load_tokenizer
from scalequest.config import ConfigError, RunOptions
from scalequest.engines.base import Block, EngineConfig, Request
from scalequest.engines.loading import open_scorer
from scalequest.engines.scoring import Score
from scalequest.solutions.internlm2 import register
from scalequest.solutions.reward_inputs import RewardInputs
from scalequest.solutions.rewards import ResponseScoring, ScoreConfig, reward_ids, reward_token, score
from scalequest.stage.block_loop import Drop
from stage_support import dropped, kept, opened
from tiny_model import stories


@pytest.fixture(scope="module")
def scorer_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head of one number, untrained."""
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("scorer")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, pad_token_id=0)
    model.save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    return folder


def scored(folder: Path, model: Path, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    run = RunOptions(output_dir=str(folder), block_size=2, track="none")
    config = ScoreConfig(input=["x"], model_name_or_path=str(model), **more)
    tokenizer = load_tokenizer(str(model))
    chat = bind(load_format(config.chat_format), tokenizer) if config.chat_format else None
    with open_scorer(str(model), EngineConfig(name="transformers")) as scorer:
        return score(opened("score", run, config), rows, scorer, chat, tokenizer, config, run)


def test_every_complete_response_gets_its_reward(tmp_path: Path, scorer_model: Path) -> None:
    rows = [
        {
            "id": f"q-{n}",
            "question": question,
            "responses": [solution, "cut", "a <|user|> b", solution + " "],
            "finish_reasons": ["stop", "length", "stop", "stop"],
        }
        for n, (question, solution) in enumerate(stories(3))
    ]
    rows.append({"id": "q-x", "question": "What?", "responses": ["cut"], "finish_reasons": ["length"]})
    receipt = scored(tmp_path, scorer_model, rows, chat_format="tinymath")
    assert receipt["dropped"] == {"no_reward": 1}
    assert receipt["counts"]["prompt_tokens"] > 0
    for row in kept(tmp_path):
        first, cut, markup, again = row["rewards"]
        assert cut is markup is None
        assert isinstance(first, float)
        assert first == pytest.approx(again), "texts are stripped"
    assert len({row["rewards"][0] for row in kept(tmp_path)}) == 3


def test_questions_get_the_difficulty_that_the_model_was_trained_to_give(
    tmp_path: Path, scorer_model: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    questions = [question for question, _ in stories(3)]
    rows = [{"id": f"q-{n}", "question": text} for n, text in enumerate([*questions, "many " * 600])]
    receipt = scored(tmp_path, scorer_model, rows, what="question")
    assert receipt["dropped"] == {"too_long": 1}
    assert dropped(tmp_path)[0]["id"] == "q-3"
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(scorer_model),
        load_tokenizer(str(scorer_model)),
    )
    for row in kept(tmp_path):
        with torch.inference_mode():  # as training/difficulty.py encodes a question: bare, no markup
            value = model(torch.tensor([tokenizer(row["question"])["input_ids"]])).logits.item()
        assert row["difficulty"] == pytest.approx(value, abs=1e-5)


class Fixed:
    """A scorer whose numbers are given, in the order of the requests."""

    name, version, context = "fixed", "1", 512

    def __init__(self, *values: float | None) -> None:
        self.values = iter(values)

    def score(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Score]]]:
        for block in blocks:
            yield block, [Score(one.key, next(self.values), len(one.prompt_ids)) for one in block.requests]


def test_a_score_that_is_no_number_is_no_score(tmp_path: Path, tiny_chat: Any) -> None:
    """NaN compares with nothing, so it would win: one is no reward, and the receipt counts it."""
    infinite, nan = float("inf"), float("nan")
    run = RunOptions(output_dir=str(tmp_path / "responses"), block_size=2, track="none")
    config = ScoreConfig(input=["x"], model_name_or_path="m", chat_format="tinymath")
    rows = [
        {"id": f"q-{n}", "question": "What?", "responses": ["a", "b"], "finish_reasons": ["stop", "stop"]}
        for n in range(3)
    ]
    scorer = Fixed(nan, 1.0, -infinite, infinite, 0.5, 2.0)
    stage = opened("score", run, config)
    made = score(stage, rows, scorer, tiny_chat, tiny_chat.tokenizer, config, run)  # type: ignore[arg-type]
    assert [row["rewards"] for row in kept(run.output_dir)] == [[None, 1.0], [0.5, 2.0]]
    assert made["dropped"] == {"no_reward": 1}
    assert (made["counts"]["not_finite"], made["counts"]["responses"]) == (3, 6)

    run = RunOptions(output_dir=str(tmp_path / "questions"), block_size=2, track="none")
    config = ScoreConfig(input=["x"], model_name_or_path="m", what="question")
    stage = opened("score", run, config)
    scorer = Fixed(nan, 0.5, None)
    made = score(stage, rows, scorer, None, tiny_chat.tokenizer, config, run)  # type: ignore[arg-type]
    assert made["dropped"] == {"no_score": 1, "too_long": 1}
    assert made["counts"]["not_finite"] == 1


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>{% endfor %}"
)


def test_without_a_format_the_tokenizers_own_template_counts(scorer_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(scorer_model))
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat_format: the reward model's tokenizer has no chat template"):
        RewardInputs(tokenizer)
    tokenizer.chat_template = TEMPLATE
    inputs = RewardInputs(tokenizer)
    asked = [{"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "It is 7."}]
    ids = tokenizer.apply_chat_template(asked)["input_ids"]
    assert list(inputs.whole("k", " What is 3 + 4? ", "It is 7. ").prompt_ids) == ids
    for question, response in (("a", "b <|end|> c"), ("<|user|> a", "b")):
        with pytest.raises(FormatError, match="special_token_in_text"):
            inputs.whole("k", question, response)
    with pytest.raises(FormatError, match="empty"):
        inputs.whole("k", "a", " ")


def test_a_reward_model_of_ours_reads_the_same_with_its_own_template_and_with_its_format(
    tiny_chat: Any, tiny_model: Path
) -> None:
    from scalequest.chat import solver_template

    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = solver_template(bind(load_format("tinymath"), tokenizer))
    for question, solution in stories(3):
        own = RewardInputs(tokenizer).whole("k", question, solution)
        assert list(own.prompt_ids) == reward_ids(question, solution, tiny_chat)


@pytest.mark.parametrize("own", [True, False], ids=["template", "format"])
@pytest.mark.parametrize("separator", ["\n", "<|assistant|>"], ids=["line", "token"])
def test_steps_are_read_at_the_ends_of_their_separators(
    scorer_model: Path, tiny_chat: Any, own: bool, separator: str
) -> None:
    tokenizer = load_tokenizer(str(scorer_model))
    tokenizer.chat_template = TEMPLATE
    inputs = RewardInputs(tokenizer, None if own else tiny_chat)
    question, steps = "What is 3 + 4?", ["3 + 4 = 7", "It is é 7.", "\\boxed{7}"]
    request = inputs.steps("k", question, "\n\n".join(steps) + "\n\n", "\n\n", separator)
    assert len(request.places) == 3
    before = len(tokenizer.decode(request.prompt_ids).partition(steps[0])[0])
    for place, upto in zip(request.places, range(1, 4), strict=True):
        read = tokenizer.decode(request.prompt_ids[: place + 1])[before:]
        body = separator.join(steps[:upto]) + separator
        # a template may strip the line break after the last step, which is then read at its last token
        assert read == body or (own and separator == "\n" and upto == 3 and read == body.rstrip())
    spelled = "a\n\nb <|end|>" if separator == "\n" else f"a\n\nb {separator} c"
    with pytest.raises(FormatError, match="special_token_in_text"):
        inputs.steps("k", question, spelled, "\n\n", separator)


@pytest.mark.parametrize("aggregate", ["min", "mean", "product", "last"])
def test_scores_of_steps_become_one_reward(tmp_path: Path, tiny_model: Path, aggregate: Any) -> None:
    import torch
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(1)
    model = AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=2).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    (question, solution), *_ = stories(1)
    rows = [
        {
            "id": "q", "question": question, "responses": [solution, "cut", f"one\n\n{solution}"],
            "finish_reasons": ["stop", "length", "stop"],
        }
    ]  # fmt: skip
    run = RunOptions(output_dir=str(tmp_path / "out"), block_size=2, track="none")
    config = ScoreConfig(
        input=["x"],
        model_name_or_path=str(tmp_path / "model"),
        aggregate=aggregate,
        step_separator="<|assistant|>",
    )
    with open_scorer(str(tmp_path / "model"), EngineConfig(name="transformers"), head=config.head) as scorer:
        score(opened("score", run, config), rows, scorer, None, tokenizer, config, run)
    (row,) = kept(tmp_path / "out")
    assert row["step_rewards"][1] is row["rewards"][1] is None
    token = tokenizer.convert_tokens_to_ids("<|assistant|>")
    for place in (0, 2):
        steps = [step for step in rows[0]["responses"][place].split("\n") if step]
        asked = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "".join(f"{step}<|assistant|>" for step in steps)},
        ]
        ids = tokenizer.apply_chat_template(asked)["input_ids"]
        ends = [n for n, one in enumerate(ids) if one == token][1:]  # the first one is the header
        with torch.no_grad():
            found = model(torch.tensor([ids])).logits[0].softmax(-1)[ends, 1]
        assert row["step_rewards"][place] == pytest.approx(found.tolist(), abs=1e-5)
        wanted = {"min": found.min(), "mean": found.mean(), "product": found.prod(), "last": found[-1]}[
            aggregate
        ]
        assert row["rewards"][place] == pytest.approx(wanted.item(), abs=1e-5)


def test_steps_are_only_of_responses() -> None:
    with pytest.raises(ConfigError, match="aggregate: only responses have steps"):
        ScoreConfig(input=["x"], model_name_or_path="m", aggregate="min", what="question")
    with pytest.raises(ConfigError, match="step_break, step_separator"):
        ScoreConfig(input=["x"], model_name_or_path="m", aggregate="min", step_separator="")


def test_what_follows_the_response(tiny_chat: Any, tmp_path: Path) -> None:
    prompt, target = tiny_chat.solve_ids("What is 3 + 4?", "7")
    newline = tiny_chat.tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert reward_ids("What is 3 + 4?", "7", tiny_chat, "\n", 9) == [*prompt, *target, *newline, 9]
    assert reward_ids("What is 3 + 4?", "7", tiny_chat) == [*prompt, *target]
    (tmp_path / "config.json").write_text(json.dumps({"reward_token_id": 92527}))
    assert reward_token(str(tmp_path)) == 92527
    (tmp_path / "config.json").write_text("{}")
    assert reward_token(str(tmp_path)) is None


@pytest.mark.slow
def test_internlm2_reward_on_vllm_is_the_llama_that_it_is_made_of(tmp_path: Path) -> None:
    """Random weights in InternLM2's layout; the same ones in a Llama say what its head must give."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    heads, groups, size, layers, vocabulary = 4, 2, 128, 2, 96
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=size, intermediate_size=256, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=128,
            rms_norm_eps=1e-5, initializer_range=0.1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    ).eval()  # fmt: skip
    head = torch.randn(1, size) / 10
    own = llama.state_dict()
    weights = {
        "model.tok_embeddings.weight": own["embed_tokens.weight"],
        "model.norm.weight": own["norm.weight"],
    }
    for n in range(layers):
        new, old = f"model.layers.{n}.", f"layers.{n}."
        q, k, v = (own[f"{old}self_attn.{name}_proj.weight"] for name in "qkv")
        # InternLM2 keeps the queries of a group beside the group's key and value
        parts = [part.view(groups, -1, size // heads, size) for part in (q, k, v)]
        weights |= {
            f"{new}attention.wqkv.weight": torch.cat(parts, 1).reshape(-1, size).contiguous(),
            f"{new}attention.wo.weight": own[f"{old}self_attn.o_proj.weight"],
            f"{new}feed_forward.w1.weight": own[f"{old}mlp.gate_proj.weight"],
            f"{new}feed_forward.w3.weight": own[f"{old}mlp.up_proj.weight"],
            f"{new}feed_forward.w2.weight": own[f"{old}mlp.down_proj.weight"],
            f"{new}attention_norm.weight": own[f"{old}input_layernorm.weight"],
            f"{new}ffn_norm.weight": own[f"{old}post_attention_layernorm.weight"],
        }
    save_file(
        {name: w.clone() for name, w in (weights | {"v_head.weight": head}).items()},
        tmp_path / "model.safetensors",
    )
    config = {
        "architectures": ["InternLM2ForRewardModel"], "model_type": "internlm2", "vocab_size": vocabulary,
        "hidden_size": size, "intermediate_size": 256, "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bias": False,
        "rope_theta": 1_000_000, "rope_scaling": {"type": "dynamic", "factor": 1.0}, "reward_token_id": 90,
        "torch_dtype": "float32", "auto_map": {"AutoConfig": "somebody--code.Config"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    register()
    rows = [[1, 5, 9, 33, 90], [1, 7, 90]]
    with open_scorer(str(tmp_path), EngineConfig(name="vllm", dtype="float32")) as scorer:
        requests = [Request(str(n), ids, None) for n, ids in enumerate(rows)]
        [(_, scores)] = scorer.score([Block(0, requests)])
    for ids, one in zip(rows, scores, strict=True):
        with torch.inference_mode():
            hidden = llama(torch.tensor([ids])).last_hidden_state[0, -1]
        assert one.value == pytest.approx((head @ hidden).item(), abs=1e-4)


def test_hooks_give_a_row_its_scores_without_a_folder(tiny_chat: Any) -> None:
    config = ScoreConfig(input=["x"], model_name_or_path="m", chat_format="tinymath")
    row = {"id": "q", "question": "What?", "responses": ["a", "b", "c"]}
    ends = {"finish_reasons": ["stop", "length", "stop"]}
    inputs = RewardInputs(tiny_chat.tokenizer, tiny_chat)
    hooks = ResponseScoring([row | ends, row | {"finish_reasons": ["length"] * 3}], inputs, config)
    assert [request.key for request in hooks.requests(0)] == ["q/0", "q/2"]  # type: ignore[union-attr]
    assert hooks.requests(1) == Drop(hooks.rows[1], "no_reward")
    made = hooks.row(0, [Score("q/0", float("nan"), 3), Score("q/2", 0.5, 3)])
    assert made == row | ends | {"rewards": [None, None, 0.5], "reward_model": "m"}
    assert hooks.counts(range(2)) == {"not_finite": 1, "responses": 6}
