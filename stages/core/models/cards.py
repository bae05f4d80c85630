"""Model cards: the README.md beside saved weights, in the form that the Hugging Face Hub reads.

A card names no commit: it is part of an output that is equal whenever the same code trains the same model, whatever
else the repository holds. `dvc.lock` lists the output's hash, and git finds the commit by it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_pretrained_cfg_value, model_entrypoint

from stages.core.base.files import write_text

LICENCE = "apache-2.0"  # of this project, and so of weights that it fits
REPOSITORY = "encoding-mismatch"
SHOWN = ("top1", "top5", "loss", "relative_feature_error", "parameters", "flops", "epochs", "global_batch", "lr")
PRETRAINED = "pretrained"  # weights that others have trained, under their licence
FINETUNED = "finetune"  # the same, fitted further


def write_card(
    folder: Path, *, name: str, command: str, metrics: Mapping[str, Any], dataset: str, hub_dataset: str | None = None
) -> None:
    """Write a card for the model that `folder` holds.

    Args:
        folder: with config.json and model.safetensors.
        name: of the run.
        command: the command that makes it.
        metrics: the content of metrics.json: architecture, weights of the teacher or of the model, and what was
            measured.
        dataset: the name of the images.
        hub_dataset: their name on the Hugging Face Hub; None if they are not from there.
    """
    architecture, licence = metrics["architecture"], LICENCE
    if metrics.get("weights") in (PRETRAINED, FINETUNED):
        licence = get_pretrained_cfg_value(architecture, "license")
    title = f"{name}: {architecture} on {dataset}"
    data = ModelCardData(
        model_name=title,
        library_name="timm",
        license=licence,
        tags=["image-classification", "timm", "knowledge-distillation" if "strategy" in metrics else "teacher"],
        datasets=None if hub_dataset is None else [hub_dataset],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=hub_dataset or dataset,
                dataset_name=dataset,
                metric_type="accuracy",
                metric_name="top-1",
                metric_value=round(metrics["top1"], 2),
            )
        ],
    )
    own = model_entrypoint(architecture).__module__.startswith("stages.")
    needed = "import stages.core.models.students  # registers the architecture\n" if own else ""
    rows = "\n".join(f"| {name} | {_shown(metrics[name])} |" for name in SHOWN if metrics.get(name) is not None)
    text = f"""---
{data.to_yaml()}
---

# {title}

{_about(metrics)} Measured on the validation images of {dataset}; all settings and figures are in `metrics.json`.

| | |
| --- | --- |
{rows}

## Make it again

In a clone of the repository `{REPOSITORY}`, with the `params.yaml` of the same commit:

```
{command}
```

The commit is the one whose `dvc.lock` lists this folder's hash: `git log -S HASH -- dvc.lock`.

## Load it

```python
{needed}import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True)
```
"""
    write_text(folder / "README.md", text)


def _about(metrics: Mapping[str, Any]) -> str:
    """One sentence on how the weights came about."""
    if "strategy" in metrics:
        kind = f"strategy `{metrics['strategy']}`, objective `{metrics['objective']}`, seed {metrics['seed']}"
        return f"A student: {kind}, under a teacher with {metrics['teacher_weights']} weights."
    return {
        "fit": "A teacher, fitted to the labels.",
        "random": "A teacher with random weights, for dry runs.",
        PRETRAINED: "A teacher with timm's pretrained weights.",
        FINETUNED: "A teacher with pretrained weights, fitted to the labels.",
    }[metrics["weights"]]


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
