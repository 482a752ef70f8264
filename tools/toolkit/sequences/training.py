"""One training on sequences, by transformers' Trainer."""

import tempfile
from dataclasses import asdict

import torch
from torch import Tensor
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from setformer_mm.transformers import (
    SeTformerConfig,
    SeTformerForSequenceClassification,
)

from ..timing import environment
from .grid import MIXERS, MODEL
from .runs import Run
from .tasks import PAD, TASKS, Data, Task, describe_sources, numbered

# The recipe that all tasks and mixers share.
RECIPE = dict(warmup=0.1, weight_decay=0.01, max_grad_norm=1.0, scheduler="cosine")
EVALUATIONS = 4  # during a training, for its curve


def settings_of(task: Task, data: Data) -> dict:
    """What makes the result of a run beside mixer and seed."""
    fields = {
        name: value for name, value in asdict(task).items() if not callable(value)
    }
    counts = dict(train=len(data.train), test=len(data.test))
    return fields | MODEL | RECIPE | counts | dict(texts_sha256=data.digest)


def train(task_name: str, mixer: str, seed: int, data: Data) -> Run:
    """Train a classifier and test it.

    Args:
        task_name: in :data:`TASKS`.
        mixer: in :data:`MIXERS`.
        seed: of weights and order.
        data: the task's texts.
    """
    task = TASKS[task_name]
    set_seed(seed)
    config = SeTformerConfig(
        vocab_size=task.vocab_size,
        num_labels=task.num_classes,
        max_position_embeddings=task.longest,
        attention=MIXERS[mixer],
        type_vocab_size=1,
        **MODEL,
    )
    model = SeTformerForSequenceClassification(config)
    train_set, test_set = (numbered(part, task) for part in (data.train, data.test))
    curve = []
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=task.epochs,
            per_device_train_batch_size=task.batch_size,
            per_device_eval_batch_size=2 * task.batch_size,
            learning_rate=task.learning_rate,
            weight_decay=RECIPE["weight_decay"],
            warmup_steps=RECIPE["warmup"],  # a share of all
            max_grad_norm=RECIPE["max_grad_norm"],
            lr_scheduler_type=RECIPE["scheduler"],
            train_sampling_strategy="group_by_length",
            dataloader_pin_memory=torch.cuda.is_available(),
            eval_strategy="steps",
            eval_steps=1 / EVALUATIONS,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
        )
        trainer = Trainer(
            model,
            settings,
            data_collator=padded,
            train_dataset=train_set,
            eval_dataset=test_set,
            compute_metrics=accuracy,
            callbacks=[_Curve(curve)],
        )
        trainer.remove_callback(PrinterCallback)
        outcome = trainer.train()
        of_test = trainer.evaluate()
        of_train = trainer.evaluate(train_set[: len(test_set)])
    return Run(
        task=task_name,
        mixer=mixer,
        seed=seed,
        accuracy=of_test["eval_accuracy"],
        train_accuracy=of_train["eval_accuracy"],
        majority=data.majority,
        curve=curve,
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=outcome.metrics["train_runtime"],
        settings=settings_of(task, data),
        sources=describe_sources(task_name),
        environment=environment(model.device.type),
    )


def padded(items: list[dict]) -> dict[str, Tensor]:
    """A batch of sequences, padded on the right to the longest."""
    ids = [torch.tensor(item["input_ids"]) for item in items]
    ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD)
    labels = torch.tensor([item["labels"] for item in items])
    return dict(input_ids=ids, attention_mask=ids.ne(PAD).long(), labels=labels)


def accuracy(evaluated) -> dict[str, float]:
    """In %, of what Trainer hands over."""
    right = evaluated.predictions.argmax(-1) == evaluated.label_ids
    return dict(accuracy=100 * float(right.mean()))


class _Curve(TrainerCallback):
    """Notes what evaluations during the training find."""

    def __init__(self, curve: list) -> None:
        self.curve = curve

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        if state.global_step < state.max_steps:
            self.curve.append((round(state.epoch, 3), metrics["eval_accuracy"]))
