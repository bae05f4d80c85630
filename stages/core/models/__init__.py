"""timm models: students by surgery, teachers and backbones with their weights, saved and loaded as folders."""

__all__ = [
    "blocks",
    "cards",
    "copying",
    "cost",
    "folders",
    "lift",
    "maps",
    "normalization",
    "pretrained",
    "students",
    "suitability",
    "talking_heads",
    "widelast",
]
