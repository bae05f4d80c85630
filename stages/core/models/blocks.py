"""A timm model's blocks: what leaves them, and the network behind one of them.

Blocks are those of the model's `feature_info`; a model of stages (Swin, most convolutional networks) counts its stages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.base.errors import UserError

DROP_PATH_CALLS = 2  # the most often that a block uses one DropPath in a forward pass: after attention, after the MLP


@contextmanager
def recorded_blocks(model: Any) -> Iterator[list[Tensor]]:
    """Record what leaves each block in every forward pass within the `with` block.

    Yields:
        A list that each forward pass refills: one output per block, [images, tokens, channels], class and register
        tokens included, or a map. The outputs keep their graph: they can be differentiated by.
    """
    outputs: list[Tensor] = []
    modules = [model.get_submodule(info["module"]) for info in model.feature_info]

    def record(module: nn.Module, _: Any, output: Tensor) -> None:
        if module is modules[0]:
            outputs.clear()
        outputs.append(output)

    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def as_tokens(output: Tensor, channels: int) -> Tensor:
    """What leaves a block as tokens [images, tokens, channels]; a map's positions are its tokens.

    Args:
        output: [images, tokens, channels], [images, rows, columns, channels] or [images, channels, rows, columns].
        channels: which of these it is.
    """
    if output.ndim == 3:
        return output
    return (output if output.shape[-1] == channels else output.permute(0, 2, 3, 1)).flatten(1, 2)


class _Replay(nn.Module):
    """A block that returns given tokens, whatever its input."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.tokens is None else self.tokens


class Cut:
    """A timm model, cut after one block: the part before runs once, the part behind as often as wanted.

    Args:
        model: a timm model whose `feature_info` names its blocks, in evaluation mode.
        block: counted from 0 as in `feature_info`.

    Raises:
        UserError: the blocks are not the items of one sequence.
    """

    def __init__(self, model: Any, block: int) -> None:
        self.model, self.block = model, block
        name = model.feature_info[block]["module"]
        parent, _, item = name.rpartition(".")
        sequence = model.get_submodule(parent) if parent else None
        if not isinstance(sequence, nn.Sequential | nn.ModuleList) or not item.isdecimal():
            raise UserError(f"{type(model).__name__} has no sequence of blocks that can be cut at {name}")
        self.sequence, self.position = sequence, int(item)

    def tokens(self, images: Tensor) -> Tensor:
        """What leaves the block, as the model has it: [images, prefix and patch tokens, channels] or a map."""
        found: list[Tensor] = []
        hook = self.sequence[self.position].register_forward_hook(lambda _, __, output: found.append(output))
        try:
            self.model(images)
        finally:
            hook.remove()
        return found[0]

    @contextmanager
    def rest(self, images: Tensor) -> Iterator[Any]:
        """A function from what leaves the block to logits [images, classes].

        Args:
            images: any, of the right number and size: the layers before the blocks run on them, and count for nothing.
        """
        blocks = [*self.sequence]
        replay = _Replay()
        for position in range(self.position):
            self.sequence[position] = nn.Identity()
        self.sequence[self.position] = replay

        def logits(tokens: Tensor) -> Tensor:
            replay.tokens = tokens
            return self.model(images)

        try:
            yield logits
        finally:
            for position, block in enumerate(blocks):
                self.sequence[position] = block


@dataclass(frozen=True)
class Layout:
    """Where the patch tokens are in what leaves a block.

    Attributes:
        prefix: class and register tokens before them.
        channels_last: of a map of four dimensions, whether channels are its last one.
    """

    prefix: int
    channels_last: bool

    def patches(self, output: Tensor) -> Tensor:
        """The patch tokens, [images, tokens, channels]."""
        if output.ndim == 3:
            return output[:, self.prefix :]
        return (output if self.channels_last else output.permute(0, 2, 3, 1)).flatten(1, 2)

    def replaced(self, output: Tensor, patches: Tensor) -> Tensor:
        """What leaves the block, with other patch tokens."""
        if output.ndim == 3:
            return torch.cat([output[:, : self.prefix], patches], dim=1)
        if self.channels_last:
            return patches.view_as(output)
        images, channels, rows, columns = output.shape
        return patches.view(images, rows, columns, channels).permute(0, 3, 1, 2)


def layout(model: Any, images: Tensor, block: int) -> Layout:
    """Find the patch tokens of a block by the map that timm gives of it."""
    (block_map,) = model.forward_intermediates(images, indices=[block], norm=False, intermediates_only=True)
    output = Cut(model, block).tokens(images)
    _, channels, rows, columns = block_map.shape
    prefix = output.shape[1] - rows * columns if output.ndim == 3 else 0
    return Layout(prefix, channels_last=output.shape[-1] == channels)
