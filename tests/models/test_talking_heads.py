"""Talking heads computed otherwise are timm's: batched, and in one kernel, which Triton's interpreter runs on a CPU."""

import copy
import importlib
import sys

import numpy as np
import pytest
import timm
import torch
from timm.models.cait import TalkingHeadAttn

from stages.core.base.errors import UserError
from stages.core.models import folders, pretrained, talking_heads
from stages.core.models.cost import flops
from stages.core.models.talking_heads import BatchedTalkingHeadAttn, batch_talking_heads, fuse_talking_heads
from stages.core.runtime import machine
from stages.core.train.teacher import FrozenTeacher

KERNEL = "stages.core.models.fused_talking_heads"
CAITS = [(4, 196), (8, 196), (4, 576), (6, 576), (8, 576), (16, 576), (16, 784)]  # heads and tokens


@pytest.fixture
def both():
    """A CaiT as timm makes it, and its batched twin; every weight counts."""
    torch.manual_seed(0)
    plain = timm.create_model("cait_xxs24_224", img_size=32, patch_size=8, depth=2, num_classes=5)
    for weights in plain.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    batched = copy.deepcopy(plain)
    batch_talking_heads(batched)
    return plain.double(), batched.double()


def test_outputs_gradients_keys_and_flops_are_timms(both):
    plain, batched = both
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = [model.train()(images) for model in both]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    gradients = [{name: weights.grad for name, weights in model.named_parameters()} for model in both]
    assert list(gradients[1]) == list(gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)
    assert flops(batched.float(), 32) == flops(plain.float(), 32)


def test_every_way_to_a_model_gives_the_batched_one(make_teacher, tmp_path):
    folders.save(make_teacher(), tmp_path)
    made = [folders.load(tmp_path), pretrained.random("cait_xxs24_224", {"depth": 2}, seed=0)[0]]
    for model in made:
        assert all(type(block.attn) is BatchedTalkingHeadAttn for block in model.blocks)


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's module, run by Triton's interpreter."""
    triton = pytest.importorskip("triton")
    from triton.runtime import interpreter

    tl = triton.language
    multiply = interpreter.InterpreterBuilder.create_dot

    def dot(builder, *operands):
        """The interpreter keeps bfloat16 as 16-bit integers, and would multiply those."""
        factors = [
            interpreter.TensorHandle((one.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
            if one.dtype.scalar == tl.bfloat16
            else one
            for one in operands[:2]
        ]
        return multiply(builder, *factors, *operands[2:])

    def call(function, *arguments):
        """The interpreter's own would leave Triton's language patched, so that nothing compiles any more."""
        patched = interpreter._patch_lang(function.fn)
        try:
            return function.rewrite()(*arguments)
        finally:
            patched.restore()

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read where a function is decorated: Triton's own were before
    for name in ("max", "sum"):
        monkeypatch.setattr(tl, name, interpreter.InterpretedFunction(getattr(tl, name).fn))
    compiled = importlib.import_module(KERNEL)
    monkeypatch.delitem(sys.modules, KERNEL)
    interpreted = importlib.import_module(KERNEL)
    monkeypatch.setattr(talking_heads, "talking_heads", interpreted.talking_heads)
    yield interpreted
    monkeypatch.undo()
    importlib.reload(compiled)  # so that the operator is the compiled kernel's again


@pytest.fixture
def make_attention():
    """timm's attention with random weights of which all count."""

    def make(heads, width):
        torch.manual_seed(0)
        attention = TalkingHeadAttn(heads * width, num_heads=heads, qkv_bias=True)
        for weights in attention.parameters():
            torch.nn.init.normal_(weights, std=0.2)
        return attention.eval().requires_grad_(False)

    return make


def error(found, exact):
    """Relative to the root mean square."""
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(
    ("heads", "width", "tokens", "images"),
    [
        (4, 48, 196, 1),
        (6, 16, 16, 3),
        (3, 20, 5, 2),  # all odd
        (1, 16, 1, 1),
        (2, 33, 257, 1),  # a key more than a power of 2
        (16, 48, 70, 1),  # two tiles of keys
        pytest.param(8, 48, 196, 1, marks=pytest.mark.nightly),
    ],
)
def test_the_kernel_computes_timms_attention(kernel, make_attention, heads, width, tokens, images):
    attention = make_attention(heads, width)
    x = torch.randn(images, tokens, heads * width, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(attention).double()(x.double())
    fused = copy.deepcopy(attention)
    fuse_talking_heads(fused)
    assert error(fused(x), exact) < 2e-6
    assert error(attention(x), exact) < 2e-6


def test_the_shapes_of_timms_caits_are_known(monkeypatch):
    monkeypatch.setattr(timm.models.cait, "_create_cait", lambda name, pretrained, **arguments: arguments)
    shapes = set()
    for name in timm.list_models("cait_*"):
        image = timm.get_pretrained_cfg(name).input_size[1]
        arguments = timm.models.model_entrypoint(name)()
        shapes.add((arguments["num_heads"], (image // arguments["patch_size"]) ** 2))
    assert shapes == set(CAITS)


@pytest.mark.parametrize(
    ("heads", "tokens"),
    [pytest.param(*shape, marks=[pytest.mark.nightly] if shape[1] > 196 else []) for shape in CAITS],
)
def test_every_cait_of_timm_is_computed(kernel, make_attention, monkeypatch, heads, tokens):
    """In programs so large that the interpreter has few to run."""
    monkeypatch.setattr(kernel, "LEAST_ROWS", 1024)
    monkeypatch.setattr(kernel, "KEYS", 256)
    attention = make_attention(heads, 16)
    x = torch.randn(1, tokens, heads * 16, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(attention).double()(x.double())
    fuse_talking_heads(attention)
    assert error(attention(x), exact) < 2e-6


@pytest.mark.parametrize("autocast", [False, True], ids=["rounded weights", "autocast"])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_kernel_rounds_no_more_than_batched_products(kernel, make_attention, autocast, half):
    attention = make_attention(4, 48)
    x = torch.randn(1, 60, 192, generator=torch.Generator().manual_seed(0))
    if not autocast:
        attention, x = attention.to(half), x.to(half)
    exact = copy.deepcopy(attention).double()(x.double())
    errors = {}
    for replace in (batch_talking_heads, fuse_talking_heads):
        model = copy.deepcopy(attention)
        replace(model)
        with torch.inference_mode(), torch.autocast("cpu", half, enabled=autocast):
            found = model(x)
        assert found.dtype == half
        errors[replace] = error(found, exact)
    assert errors[fuse_talking_heads] < 0.02
    if half == torch.float16:  # to bfloat16 the interpreter truncates
        assert errors[fuse_talking_heads] < errors[batch_talking_heads]


def test_the_kernel_stands_in_a_compiled_graph(kernel, make_attention):
    attention = make_attention(2, 16)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(attention).double()(x.double())
    fuse_talking_heads(attention)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert error(compiled(x), exact) < 2e-6


def test_gradients_through_the_kernel_are_refused(kernel, make_attention):
    attention = make_attention(2, 16)
    fuse_talking_heads(attention)
    x = torch.randn(1, 4, 32, requires_grad=True)
    with pytest.raises(RuntimeError, match="autograd"):
        attention(x).sum().backward()


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.nightly), 90])
@pytest.mark.parametrize(
    ("heads", "tokens"),
    [(2, 50), (2, 1100), *(pytest.param(*shape, marks=pytest.mark.nightly) for shape in ((8, 196), (16, 784)))],
)
def test_the_kernel_compiles_for_gpus(heads, tokens, capability):
    """Without a GPU: to their instructions, by the assembler that comes with Triton."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    kernel = importlib.import_module(KERNEL)
    function, sizes = kernel.program(heads, tokens, 48)
    kinds = ["*bf16"] * 5 + ["i32", "fp32"]
    signature = dict(zip(function.arg_names, kinds, strict=False)) | dict.fromkeys(sizes, "constexpr")
    source = triton.compiler.ASTSource(function, signature, constexprs=sizes)
    options = {"num_warps": kernel.WARPS, "num_stages": kernel.STAGES}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 99 * 2**10  # of which the smallest of these GPUs have so much


def test_only_a_frozen_teacher_in_half_precision_on_cuda_takes_the_kernel(teacher, monkeypatch):
    cuda, cpu, half, single = torch.device("cuda"), torch.device("cpu"), torch.bfloat16, torch.float32
    monkeypatch.delenv("TALKING_HEADS", raising=False)
    assert not machine.fused_talking_heads(cuda, half)  # as long as no GPU has shown that it pays
    monkeypatch.setenv("TALKING_HEADS", "fused")
    asked = [machine.fused_talking_heads(*choice) for choice in ((cuda, half), (cuda, single), (cpu, half))]
    assert asked == [True, False, False]
    monkeypatch.setattr(machine, "fused_talking_heads", lambda device, precision: precision == half)
    for options, kind in (({"dtype": half}, "Fused"), ({"autocast": half}, "Fused"), ({}, "")):
        frozen = FrozenTeacher(teacher, device=cpu, **options)
        assert type(frozen.bare[0].blocks[0].attn).__name__ == f"{kind}TalkingHeadAttn"
    assert type(teacher.blocks[0].attn) is TalkingHeadAttn
    monkeypatch.setattr(talking_heads, "talking_heads", None)
    with pytest.raises(UserError, match="needs triton"):
        fuse_talking_heads(teacher)
