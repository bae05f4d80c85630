"""timm models: students by surgery, teachers and backbones with their weights, saved and loaded as folders."""

__all__ = [
    "backbones",
    "blocks",
    "cards",
    "copying",
    "cost",
    "folders",
    "lift",
    "maps",
    "normalization",
    "students",
    "suitability",
    "talking_heads",
    "widelast",
]
