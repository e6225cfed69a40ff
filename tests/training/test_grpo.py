"""GRPO: rollouts on our ids, rewards by the grader, by models and by functions, and the safety of "
"other stages."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_support import RECIPES, logged, recipe, same

from scalequest.config import ConfigError, build, read_yaml
from scalequest.stage.folder import StageError
from scalequest.training.rollout_rewards import Rollouts, batch_of, checked, correct, well_formed
from scalequest.training.safety import NOT_FINITE, REQUEUE

SOLVER = RECIPES / "tiny/models/tiny-solver"
Settings = dict[str, Any]
Run = Callable[..., Path]


@pytest.fixture
def solved(tmp_path: Path) -> Path:
    """Questions with the answers of earlier samples, of which some agree."""
    rows = [
        {
            "id": f"q-{n:02d}",
            "question": f"Ann has {n + 2} plums and buys {n % 3 + 1} plums. How many plums does Ann "
            "have in the end?",
            "answers": [str(n + 2 + n % 3 + 1)] * (n % 4 + 1) + [None] * (3 - n % 4),
            "level": n,
        }
        for n in range(12)
    ]
    path = tmp_path / "solved.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def given(solved: Path, tmp_path: Path) -> Settings:
    """Four steps of two groups of four texts."""
    return {
        "model_name_or_path": str(SOLVER),
        "dtype": "float32",
        "chat_format": "tinymath",
        "input": [str(solved)],
        "reward": ["grader"],
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_length": 160,
        "max_completion_length": 48,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "track": "none",
    }


@pytest.fixture
def run(given: Settings) -> Run:
    """Run the recipe; gives its output folder."""
    module = recipe("grpo")

    def train(**more: Any) -> Path:
        settings = {**given, **more}
        module.main(*build(module.types(), settings))
        return Path(settings["output_dir"])

    return train


def trainer_of(given: Settings, **more: Any) -> Any:
    from scalequest.training.grpo import GRPO
    from scalequest.training.identity import identify
    from scalequest.training.preparation import prepare

    args, *rest = build(recipe("grpo").types(), {**given, **more})
    stage = GRPO[args.task]
    return stage.trainer_of(prepare(identify(stage, args, *rest)))


def solver_format() -> Any:
    from scalequest.chat import bind, load_format, load_tokenizer

    return bind(load_format("tinymath"), load_tokenizer(str(SOLVER)))


def rollouts(*texts: str, reference: str = "7", stopped: bool = True) -> Rollouts:
    rows = [{"id": f"q-{n}", "question": "3 + 4?", "reference": reference} for n in range(len(texts))]
    return Rollouts(rows, texts, [stopped] * len(texts), 0)


# ---------------------------------------------------------------------------------------------------- rewards


def test_the_grader_rewards_complete_solutions_with_the_right_answer() -> None:
    texts = ("so \\boxed{7}", "so \\boxed{\\frac{14}{2}}", "so \\boxed{8}", "no idea", "the answer is 7")
    assert correct(rollouts(*texts)) == [1, 1, 0, 0, 1]
    assert well_formed(rollouts(*texts)) == [1, 1, 1, 0, 0]
    assert correct(rollouts(*texts, stopped=False)) == well_formed(rollouts(*texts, stopped=False)) == [0] * 5


def test_texts_are_what_the_ids_say_and_a_cut_one_is_told_apart() -> None:
    chat = solver_format()
    prompt, target = chat.solve_ids("3 + 4?", "3 + 4 = 7\n\\boxed{7}")
    assert target[-1] in chat.solve_stop_ids
    made = batch_of([{"id": "a"}, {"id": "b"}], [target, target[:-1]], chat, "solve", 0)
    assert made.texts[0] == made.texts[1] == "3 + 4 = 7\n\\boxed{7}"
    assert made.stopped == [True, False]
    assert len(prompt) > 1


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], "returned 1 values for 2 texts; it must return one for each"),
        ([1.0, float("nan")], "returned nan for a text of row q-1; it must return finite numbers"),
        ([1.0, "good"], "returned 'good' for a text of row q-1"),
        (ValueError("bad\nluck"), "raised ValueError: bad luck"),
    ],
    ids=["length", "nan", "text", "raises"],
)
def test_a_reward_that_grpo_cannot_use_is_one_line(returned: Any, said: str) -> None:
    def reward(_: Rollouts) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    with pytest.raises(StageError, match="grpo: reward mine at step 5") as error:
        checked("mine", reward, rollouts("a", "b"), 5)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert checked("mine", lambda _: [None, 2], rollouts("a", "b"), 5) == [None, 2.0]


def test_a_function_of_the_user_gets_rows_and_texts(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import json\nseen = []\ndef short(rows, texts):\n"
        f"    open({str(tmp_path / 'seen.jsonl')!r}, 'a').write(json.dumps([rows, texts]) + '\\n')\n"
        "    return [-len(text) for text in texts]\n"
    )
    out = run(reward=["grader", f"{mine}:short"], reward_weights=[1.0, 0.01], max_steps=1)
    rows, texts = json.loads((tmp_path / "seen.jsonl").read_text().splitlines()[0])
    assert len(rows) == len(texts) == 8
    assert [row["id"] for row in rows[:4]] == [rows[0]["id"]] * 4
    assert {"question", "reference", "level"} <= rows[0].keys()
    found = next(record for record in logged(out) if "rewards/short/mean" in record)
    assert found["rewards/short/mean"] == pytest.approx(-sum(map(len, texts)) / 8)
    wanted = found["rewards/grader/mean"] + 0.01 * found["rewards/short/mean"]
    assert found["reward"] == pytest.approx(wanted, abs=1e-5)
    mine.write_text(mine.read_text() + "# changed\n")
    import sys

    for name in [name for name in sys.modules if name.startswith("scalequest_user_")]:
        del sys.modules[name]
    with pytest.raises(StageError, match="reward_functions"):
        run(reward=["grader", f"{mine}:short"], reward_weights=[1.0, 0.01], max_steps=1)


# ----------------------------------------------------------------------------------------------------- solver


def test_rollouts_are_the_formats_ids_and_end_at_its_stop_token(given: Settings, solved: Path) -> None:
    trainer, chat = trainer_of(given), solver_format()
    texts = {json.loads(line)["id"]: json.loads(line)["question"] for line in solved.read_text().splitlines()}
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    batch = trainer._prepare_inputs(rows)
    seen = 0
    for ids, mask, completion, complete in zip(
        batch["prompt_ids"],
        batch["prompt_mask"],
        batch["completion_ids"],
        batch["completion_mask"],
        strict=True,
    ):
        prompt = ids[mask.bool()].tolist()
        assert prompt in [chat.solve_prompt_ids(text) for text in texts.values()]
        assert prompt.count(chat.bos_id) <= 1
        written = completion[complete.bool()].tolist()
        ends = [place for place, token in enumerate(written) if token in chat.solve_stop_ids]
        assert ends in ([], [len(written) - 1]), "it went on after the stop token"
        seen += bool(ends)
    assert seen, "no rollout ended by itself"
    assert trainer.eos_token_ids == list(chat.solve_stop_ids)


def test_a_run_reports_and_accounts_for_every_row(run: Run) -> None:
    out = run(min_pass_rate=0.3, max_pass_rate=0.8, holdout=2, per_device_eval_batch_size=4)
    receipt = json.loads((out / "receipt.json").read_text())
    assert (receipt["stage"], receipt["rows_in"], receipt["kept"]) == ("grpo", 12, 4)
    assert receipt["dropped"] == {"outside_band": 6, "held_out": 2}
    steps = [record for record in logged(out) if "loss" in record]
    assert len(steps) == 3
    for key in (
        *("reward", "reward_std", "frac_reward_zero_std", "rewards/grader/mean", "grad_norm", "entropy"),
        *("completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean", "num_tokens"),
    ):
        assert all(key in record for record in steps), key
    assert receipt["tokens"] == steps[-1]["num_tokens"] > 0
    card = (out / "README.md").read_text()
    assert "On 2 held-out prompts with 4 texts each, the mean reward is" in card
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat, tokenizer = solver_format(), AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "What is 3 + 4?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert ids == chat.solve_prompt_ids("What is 3 + 4?")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == list(chat.solve_stop_ids)


def test_a_reference_gives_a_kl(run: Run) -> None:
    out = run(beta=0.1, learning_rate=1e-3)
    kl = [record["kl"] for record in logged(out) if "loss" in record]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 0


@pytest.mark.parametrize("batch", [8, 4], ids=["whole", "accumulated"])
def test_stopped_and_resumed_is_as_if_nothing_had_been(run: Run, tmp_path: Path, batch: int) -> None:
    more = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1e-4,
        "num_iterations": 1,
    }
    more |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
    undisturbed = run(output_dir=str(tmp_path / "undisturbed"), **more)
    out = tmp_path / "out"

    def tell() -> None:
        while not (out / "metrics.jsonl").exists() or not logged(out):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    scheduler = threading.Thread(target=tell)
    scheduler.start()
    with pytest.raises(SystemExit) as left:
        run(**more)
    scheduler.join()
    assert left.value.code == REQUEUE
    run(**more)
    assert same(undisturbed, out)
    assert json.loads((out / "receipt.json").read_text())["finished"]


def test_a_loss_that_is_no_number_stops_and_keeps_its_rollouts(run: Run, given: Settings) -> None:
    with pytest.raises(StageError, match="is not finite"):
        run(learning_rate=1e30, max_grad_norm=1e30, reward=["format"], beta=0.5, max_steps=4)
    out = Path(given["output_dir"])
    said = json.loads(next((out / NOT_FINITE).glob("*.json")).read_text())
    assert len(said["rows"]) == 8
    assert "plums" in said["rows"][0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reward": []}, "reward: name at least one of grader, format, scorer or FILE.py:FUNCTION"),
        ({"reward": ["agreement"]}, "reward: 'agreement' is not a reward for task solve"),
        ({"reward": ["scorer"]}, "scorer: reward scorer needs it"),
        ({"reward": ["nowhere.py:f"]}, "reward: nowhere.py: no such file"),
        ({"input": []}, "input: name the questions to solve"),
        ({"task": "question", "reward": ["scorer"], "scorer": "m"}, "input: task question reads none"),
        ({"min_pass_rate": 0.9, "max_pass_rate": 0.1}, "min_pass_rate: 0.9 is above max_pass_rate 0.1"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights: 2 weights for 1 rewards"),
        ({"max_completion_length": 160}, "max_length: 160 leaves no room"),
        ({"per_device_train_batch_size": 6}, "must be divisible by num_generations"),
        ({"log_completions": True}, "log_completions: not supported"),
        ({"reference": "solution"}, "row q-00: no 'solution'"),
        ({"pass_rate": "rate"}, "row q-00: no 'rate'; set `pass_rate`"),
        ({"holdout": 2, "per_device_eval_batch_size": 3}, "per_device_eval_batch_size: 3 x 1"),
        ({"max_pass_rate": 0.0}, "nothing is left to train on"),
        ({"limit": 1}, "1 prompts are fewer than a generation batch takes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings_that_contradict_each_other_are_refused(run: Run, more: Settings, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(**more)
    assert said in str(error.value)


# -------------------------------------------------------------------------------------------------- generator


def test_a_generator_is_rewarded_by_a_solvers_agreement(given: Settings) -> None:
    more = {
        "task": "question", "input": [], "prompts": 6, "reward": ["agreement"], "solver": str(SOLVER),
        "solver_samples": 3, "solver_tokens": 24, "num_generations": 2, "per_device_train_batch_size": 4,
    }  # fmt: skip
    trainer, chat = trainer_of(given, **more), solver_format()
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    assert all(ids.tolist() == chat.question_prefix_ids for ids in batch["prompt_ids"])
    assert trainer.eos_token_ids == list(chat.question_stop_ids)
    from scalequest.training.rollout_rewards import Agreed
    from scalequest.training.rollout_settings import RolloutData

    args = RolloutData(
        task="question", reward=["agreement"], solver=str(SOLVER), solver_tokens=64, chat_format="tinymath"
    )
    question = "Ann has 5 plums. Ann buys 3 plums. How many plums does Ann have in the end?"
    made = Rollouts([{"id": str(n)} for n in range(3)], [question, "", question], [True, True, False], 7)
    agreed = Agreed(args, chat)
    first, second = agreed(made), agreed(made)
    assert first == second, "the same seed"
    assert first[0] in [n / 8 for n in range(1, 9)]
    assert first[1:] == [0, 0], "no question, and one that was cut off"
    with pytest.raises(ConfigError, match="solver_tokens: 9999 leaves no room for a question"):
        Agreed(RolloutData(**{**vars(args), "solver_tokens": 9999}), chat)(made)
    half = Agreed(RolloutData(**{**vars(args), "target_agreement": 0.5}), chat)
    assert half(made)[0] == pytest.approx(1 - abs(first[0] - 0.5))


@pytest.mark.parametrize("task", ["solve", "question"])
def test_a_scorer_rewards_with_the_number_that_it_computes(task: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from scalequest.training.rollout_rewards import Scored
    from scalequest.training.rollout_settings import RolloutData

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(SOLVER, num_labels=1, dtype="float32")
    model.save_pretrained(tmp_path / "scorer")
    tokenizer = AutoTokenizer.from_pretrained(SOLVER)
    tokenizer.save_pretrained(tmp_path / "scorer")
    chat = solver_format()
    where = {"input": ["x"]} if task == "solve" else {}
    args = RolloutData(
        task=task, reward=["scorer"], scorer=str(tmp_path / "scorer"), chat_format="tinymath", **where
    )
    made = Rollouts([{"id": "a", "question": "3 + 4?"}] * 2, ["so \\boxed{7}"] * 2, [True, False], 0)
    value, nothing = Scored(args, chat)(made)
    prompt, target = chat.solve_ids("3 + 4?", "so \\boxed{7}")
    ids = [*prompt, *target] if task == "solve" else tokenizer("so \\boxed{7}")["input_ids"]
    with torch.no_grad():
        wanted = model.eval()(torch.tensor([ids])).logits.item()
    assert value == pytest.approx(wanted, abs=1e-5)
    assert nothing is None


def test_a_generator_is_trained_and_saved_as_one(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def long(rows, texts):\n    return [float(len(text)) for text in texts]\n")
    out = run(task="question", input=[], prompts=5, reward=[f"{mine}:long"], max_steps=2, sample_every=1)
    receipt = json.loads((out / "receipt.json").read_text())
    assert (receipt["rows_in"], receipt["kept"], receipt["dropped"]) == (5, 5, {})
    assert "not meant for answering" in (out / "README.md").read_text()


@pytest.mark.parametrize("name", ["tiny/grpo", "tiny/grpo_questions", "qwen2_math_7b/grpo"])
def test_presets_are_read(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    settings = {**read_yaml(path), "use_cpu": True, "bf16": False}
    args, training_args, _ = build(recipe("grpo").types(), settings, str(path))
    assert training_args.generation_batch_size % training_args.num_generations == 0
    assert args.reward
