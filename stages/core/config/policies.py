"""Checking timm's augmentation policies, such as rand-m9-mstd0.5 (timm/data/auto_augment.py), without torch.

timm's own errors are not enough: it silently ignores sections that it does not know (rand-m9-foo), and finds faults in
others only at the first image.
"""

import re

NUMBER = r"\d{1,3}(\.\d{1,6})?"
SECTIONS = {  # for each policy: a pattern that its sections match, and an example of all of them
    "rand": (
        rf"m\d{{1,3}}|n([1-9]|1[0-4])|p(0(\.\d{{1,6}})?|1(\.0)?)|mstd{NUMBER}|mmax[1-9]\d{{0,2}}|inc[01]|t(weights|3aw?)",
        "rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-tweights",
    ),
    "augmix": (rf"m\d{{1,3}}|w[1-9]|d\d|a(?!0(\.0+)?$){NUMBER}|b[01]|mstd{NUMBER}", "augmix-m3-w3-d2-a1-b0-mstd0.5"),
    **{name: (f"mstd{NUMBER}", f"{name}-mstd0.5") for name in ("original", "originalr", "v0", "v0r", "3a")},
}


def check_policy(text: str) -> str:
    """Return `text` if timm understands all of it, and the policy works on every image.

    Raises:
        ValueError: otherwise; the text says why.
    """
    policy, *sections = text.split("-")
    if policy not in SECTIONS:
        raise ValueError(f"must begin with one of timm's policies, {', '.join(SECTIONS)}, or be null")
    pattern, example = SECTIONS[policy]
    keys = []
    for section in sections:
        if not re.fullmatch(pattern, section, re.ASCII):
            raise ValueError(f"{section!r} is not a section of timm's {policy}; its sections are as in {example}")
        keys.append("t" if section.startswith("t") else section.rstrip("0123456789."))
    if len(set(keys)) < len(keys):
        raise ValueError("has the same section twice")
    return text
