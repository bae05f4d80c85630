"""Sections of params that tests begin from: small, valid, and apart from the configuration that is shipped."""

from stages.core.config.schema import Augment, Objective, Recipe

AUGMENT = {
    "on_device": False,
    "padding": 0,
    "scale": [0.5, 1.0],
    "ratio": [0.9, 1.1],
    "hflip": 0.5,
    "color_jitter": 0.3,
    "auto_augment": "rand-m5-mstd0.5",
    "random_erasing": 0.5,
    "repeats": 1,
    "interpolation": "random",
}
RECIPE = {
    "epochs": 3,
    "epoch_steps": None,
    "global_batch": 16,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "decay_embeddings": "never",
    "schedule": "step",
    "warmup_epochs": 1,
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "label_smoothing": 0.1,
    "clip_grad": 1.0,
    "precision": "float32",
    "teacher_precision": "rounded",
    "ema_decay": 0.9,
    "ema_start": "first_step",
    "position_std": None,
    "augment": AUGMENT,
}


def make_augment(**changes: object) -> Augment:
    return Augment.model_validate({**AUGMENT, **changes})


def make_recipe(**changes: object) -> Recipe:
    return Recipe.model_validate({**RECIPE, **changes})


def make_objective(feature: str | None = "mse", **changes: object) -> Objective:
    """A feature loss of weight 0.2 beside the labels; without one, the labels alone."""
    plain = {"alpha": 0.0, "tau": 1.0, "feature": feature, "feature_weight": 0.2 if feature else 0.0}
    return Objective.model_validate({**plain, **changes})
