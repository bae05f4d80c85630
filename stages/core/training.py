"""The one training loop: it fits the teacher and every student, and resumes where it was interrupted."""

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from torch import Tensor
from tqdm import tqdm

from stages.core.errors import UserError
from stages.core.evaluation import evaluate
from stages.core.loaders import TrainingBatches
from stages.core.resume import CheckpointFolder

EPOCHS_AT_MOST = 100_003  # keeps the random states of (seed, epoch) apart
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
History = list[dict[str, float]]


def fit(
    task: TrainingTask,
    training: TrainingBatches,
    validation: Iterable[tuple[Tensor, Tensor]],
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    warmup_epochs: int,
    warmup_lr: float,
    min_lr: float,
    clip_grad: float | None,
    precision: str,
    ema_decay: float | None,
    seed: int,
    device: torch.device,
    checkpoints: CheckpointFolder,
    log: Callable[[dict[str, float]], None] = lambda _: None,
) -> tuple[History, float]:
    """Train a task's model with AdamW and a cosine schedule, evaluating and saving after every epoch.

    A checkpoint in `checkpoints` is continued from; the result equals that of an uninterrupted run, since
    every random choice depends on seed and epoch alone. Nothing in a step waits for the device.

    Args:
        task: model and loss, on `device`.
        training: augmented batches of each epoch, on `device`.
        validation: batches to evaluate on.
        epochs: passes over the training images.
        lr: peak learning rate, reached after `warmup_epochs` from `warmup_lr`, falling to `min_lr`.
        weight_decay: of matrices; biases, norms and embeddings have none.
        clip_grad: largest gradient norm, or None.
        precision: "float32", or "bfloat16" under autocast.
        ema_decay: of the averaged weights, evaluated beside the raw ones; None keeps none.
        seed: of the model's own random choices (drop path).
        device: where to train.
        checkpoints: where to save and to continue from.
        log: called with the metrics of each epoch, those before an interruption included.

    Returns:
        One entry per epoch (epoch, lr, train_loss, loss, top1, top5, and loss_ema, … with an EMA), and the
        images trained per second in this process (0 where there was nothing left to do).

    Raises:
        UserError: the loss is not finite; the last checkpoint is kept.
    """
    student = task.get_eval_model()
    optimizer = create_optimizer_v2(student, opt="adamw", lr=lr, weight_decay=weight_decay, fused=True)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=warmup_epochs,
        warmup_lr=warmup_lr,
        min_lr=min_lr,
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=len(training),
    )
    if ema_decay is not None:
        task.setup_ema(decay=ema_decay)

    history: History = []
    saved = checkpoints.load()
    if saved is not None:
        task.load_checkpoint_state(saved["state_dict"])
        if ema_decay is not None:
            task.load_checkpoint_state(saved["state_dict_ema"], ema=True)
        optimizer.load_state_dict(saved["optimizer"])
        history = saved["history"]
    for metrics in history:
        log(metrics)

    trained_images, trained_s = 0, 0.0
    step = len(history) * len(training)
    progress = tqdm(range(len(history), epochs), initial=len(history), total=epochs, unit="epoch", disable=None)
    for epoch in progress:
        torch.manual_seed(seed * EPOCHS_AT_MOST + epoch)  # drop path
        random.seed(f"{seed}/{epoch}")  # random erasing
        task.train()
        losses = torch.zeros(len(training), device=device)
        started = time.perf_counter()
        for batch, (images, labels) in enumerate(training.epoch(epoch)):
            scheduler.step_update(step)
            with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32"):
                loss = task(images, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            if clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), clip_grad)
            optimizer.step()
            step += 1
            task.update_ema(step)
            losses[batch] = loss.detach()
            trained_images += len(labels)
        finite = losses.isfinite()
        trained_s += time.perf_counter() - started
        if not finite.all():
            first = int((~finite).nonzero()[0])
            raise UserError(
                f"the loss is not finite at step {epoch * len(training) + first} (epoch {epoch}, batch {first}); "
                f"lower recipe.lr or set recipe.clip_grad; the checkpoint of the epoch before is kept"
            )

        metrics = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train_loss": losses.mean().item()}
        metrics |= evaluate(student, validation, device)
        if ema_decay is not None:
            averaged = evaluate(task.get_eval_model(ema=True), validation, device)
            metrics |= {f"{name}_ema": value for name, value in averaged.items()}
        history.append(metrics)
        log(metrics)
        progress.set_postfix(loss=f"{metrics['train_loss']:.3f}", top1=f"{metrics['top1']:.1f} %")
        state: dict[str, Any] = {
            **task.get_checkpoint_state(),
            "optimizer": optimizer.state_dict(),
            "history": history,
        }
        if ema_decay is not None:
            state |= task.get_checkpoint_state(ema=True)
        checkpoints.save(state)
    return history, trained_images / trained_s if trained_s else 0.0
