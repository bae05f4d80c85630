"""Whether it pays to compile a run's models: torch.compile takes minutes, which a short run does not win back."""

STEP_S = 0.03  # an eager step takes at least this on a GPU: some thousand kernels have to be launched
FLOPS_PER_S = 5e13  # of eager bfloat16 steps with models of this size on a recent GPU
LEAST_S = 300.0  # for each graph: compiled steps take about two thirds of the time, compilation a minute and a half


def pays(models: int, passes: int, operations: float) -> bool:
    """Whether training is long enough for compilation, by an estimate of its eager time.

    Args:
        models: that are trained side by side; each is compiled to a graph of its own, and their teacher to one.
        passes: forward and backward passes of each in one process, over all epochs.
        operations: floating-point operations of all models and of their teacher, over all epochs.
    """
    return max(models * passes * STEP_S, operations / FLOPS_PER_S) >= LEAST_S * (models + 1)


def expect(models: int) -> None:
    """Let torch.compile hold so many students and their teacher; beyond its limit it would run them uncompiled."""
    import torch._dynamo  # half of the time that it takes to import torch

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * (models + 1))
