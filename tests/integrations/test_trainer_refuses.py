"""What a user of the Trainer can get wrong is one line that says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from support.loops import BATCH, network
from support.trainers import QUIET, TUNED, arguments
from transformers import TrainingArguments

from anybatch import LAMB, LARS, Reference
from anybatch.integrations.trainer import global_batch_size, optimizer, prepare, scaled_arguments

REFUSED = {
    "max_steps=500 contradicts the reference, which gives 16": {"max_steps": 500},
    "learning_rate=0.1 contradicts": {"learning_rate": 0.1},
    "num_train_epochs=3 has no say: the reference's 512 examples are 16 steps": {"num_train_epochs": 3.0},
    "gradient_accumulation_steps=3 contradicts batch_size=32": {"gradient_accumulation_steps": 3},
    "batch_size=33 is not a multiple of 8": {"batch_size": 33},
    "auto_find_batch_size=True changes the batch after rate and steps": {"auto_find_batch_size": True},
    "train_batch_size is 512 in the DeepSpeed configuration, but batch_size=32 makes it 32": {
        "deepspeed": {
            "train_batch_size": 512,
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
        }
    },
    "gradient_accumulation_steps is nothing in the DeepSpeed configuration": {
        "deepspeed": {"train_batch_size": 32, "train_micro_batch_size_per_gpu": "auto"}
    },
    "gradient_accumulation_steps is 7 in the DeepSpeed configuration": {
        "deepspeed": {"gradient_accumulation_steps": 7, "train_micro_batch_size_per_gpu": "auto"}
    },
    "per_device_train_batch_size=0 is not an int of at least 1": {"per_device_train_batch_size": 0},
    "per_device_train_batch_size='8' is not an int": {"per_device_train_batch_size": "8"},
    "gradient_accumulation_steps='2' is not an int": {"gradient_accumulation_steps": "2", "batch_size": None},
    "max_steps='16' contradicts the reference, which gives 16": {"max_steps": "16"},
    "the configuration /missing.json cannot be read: .*No such file": {"deepspeed": "/missing.json"},
    "FSDP1 flattens the parameters": {"fsdp": True, "fsdp_config": {"version": 1}},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_fit_together_is_refused_in_one_line(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^" + line.replace("(", r"\(")) as raised:
        arguments(tmp_path, **REFUSED[line])
    assert "\n" not in str(raised.value)


def test_processes_that_the_arguments_do_not_see_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accelerator and use_cpu, TrainingArguments of each of two processes count one."""
    args = TrainingArguments(str(tmp_path), **QUIET)
    assert args.world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match="2 processes were launched, but TrainingArguments takes each for the only one"
    ):
        scaled_arguments(args, TUNED)


def test_a_deepspeed_configuration_in_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"gradient_accumulation_steps": 7, "train_micro_batch_size_per_gpu": 8}))
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 7 in the DeepSpeed"):
        arguments(tmp_path, deepspeed=str(file))


def test_an_optimizer_in_deepspeeds_configuration_is_not_used_in_silence(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.deepspeed = {"optimizer": {"type": "AdamW"}}
    with pytest.raises(ValueError, match=r"^the DeepSpeed configuration has an optimizer, which the Trainer would use"):
        optimizer(LAMB, args)


def test_the_references_momentum_reaches_the_optimizer(tmp_path: Path) -> None:
    reference = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512, momentum=0.8)
    args = arguments(tmp_path, reference)
    make, settings = optimizer(LARS, args)
    assert make()(network(), **settings).param_groups[0]["momentum"] == reference.at(BATCH).momentum
    make, settings = optimizer(LARS, args, momentum=0.5)
    assert make()(network(), **settings).param_groups[0]["momentum"] == 0.5
    make, settings = optimizer(LAMB, args)
    with pytest.raises(TypeError, match="momentum"):
        make()(network(), **settings)


@pytest.mark.parametrize("wrong", [None, "arguments", 512])
def test_what_is_not_the_trainers_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^arguments={wrong!r} are not TrainingArguments"):
        global_batch_size(wrong)
    with pytest.raises(ValueError, match=f"^arguments={wrong!r} are not TrainingArguments"):
        optimizer(LAMB, wrong)
    with pytest.raises(ValueError, match=f"^trainer={wrong!r} is not a transformers.Trainer"):
        prepare(wrong)


def test_a_schedule_that_the_trainer_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='join="global" is a schedule that the Trainer does not have'):
        arguments(tmp_path, Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512, join="global"))
