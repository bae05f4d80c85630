import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stages.core.base.errors import StoppedError, UserError
from stages.core.data.batches import evaluation_batches
from stages.core.data.image_list import ImageList
from stages.core.distillation.task import create_task
from stages.core.runtime.distributed import World
from stages.core.runtime.stopping import STOPS, stops_deferred
from stages.core.train import checkpoints as resume
from stages.core.train import fingerprints
from stages.core.train.batches import TrainingBatches
from stages.core.train.checkpoints import CheckpointFolder
from stages.core.train.loop import fit_together
from stages.core.train.sampler import EpochSampler
from stages.core.train.teacher import FrozenTeacher
from stages.core.train.training import Training
from tests.sections import make_objective, make_recipe

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class InterruptedTrainingError(Exception):
    pass


class Poisoned:
    """Training batches whose images are not finite from one epoch on."""

    def __init__(self, batches, epoch):
        self.batches, self.first = batches, epoch
        self.sampler = batches.sampler

    def epoch(self, number, start=0):
        for images, labels in self.batches.epoch(number, start):
            yield (images * float("nan") if number >= self.first else images), labels


@pytest.fixture
def train(tmp_path, splits, make_student, make_teacher):
    """Train a small student; returns its history and its weights."""

    def run(
        identity="a",
        *,
        root="checkpoints",
        seed=0,
        workers=0,
        distil=False,
        stop_after=None,
        poison=None,
        fresh=False,
        adopt=False,
        adopted=None,
        depth=2,
        logged=None,
        device_batch=None,
        repeats=1,
        drop_path=0.2,
        terminated=lambda: None,
        checkpoint_s=600.0,
        images=None,
        **changes,
    ):
        student = make_student("lift", drop_path_rate=drop_path, depth=depth)
        teacher = FrozenTeacher(make_teacher(), device=CPU) if distil else None
        task = create_task(student, teacher, make_objective(alpha=0.5), label_smoothing=0.1, device=CPU)
        images = images or splits[0]
        sampler = EpochSampler(
            len(images.files), seed, batch=16, world=ALONE, device_batch=device_batch, repeats=repeats
        )
        recipe = make_recipe(**changes)
        batches = TrainingBatches(images, student, sampler, augment=recipe.augment, workers=workers)
        validation = evaluation_batches(splits[1], student, batch=8, workers=0)

        def log(metrics):
            if logged is not None:
                logged.append(metrics)
            if metrics["epoch"] == stop_after:
                raise InterruptedTrainingError

        with CheckpointFolder(tmp_path / root, "lift", {"of": identity}, {}, fresh=fresh, adopt=adopt) as checkpoints:
            training = Training(task, checkpoints, recipe, sampler, seed=seed, world=ALONE, log=log)
            fit_together(
                [training],
                batches if poison is None else Poisoned(batches, poison),
                validation,
                checkpoint_s=checkpoint_s,
                terminated=terminated,
            )
        if adopted is not None:
            adopted += checkpoints.adopted
        return training.state.history, {name: value.clone() for name, value in student.state_dict().items()}

    return run


@pytest.fixture(scope="module")
def known():
    """Results of `uninterrupted`: a run's images and weights are equal in all tests."""
    return {}


@pytest.fixture
def uninterrupted(train, known):
    """What `train` returns with some changes when nothing interrupts it, trained once for all tests."""

    def result(**changes):
        key = repr(sorted(changes.items()))
        if key not in known:
            known[key] = train(root=f"whole-{len(known)}", **changes)
        return known[key]

    return result


def assert_equal(found, expected):
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)


def test_the_same_seed_gives_the_same_result(train, uninterrupted):
    logged = []
    assert_equal(train(logged=logged), uninterrupted())
    assert logged == uninterrupted()[0] != uninterrupted(seed=1)[0]


def test_history_tells_every_epoch(uninterrupted):
    history, _ = uninterrupted()
    assert [metrics["epoch"] for metrics in history] == [0, 1, 2]
    names = {"epoch", "lr", "train_loss", "loss", "top1", "top5", "loss_ema", "top1_ema", "top5_ema"}
    assert all(set(metrics) == names for metrics in history)
    without = uninterrupted(ema_decay=None, clip_grad=None)[0]
    assert all(not name.endswith("_ema") for metrics in without for name in metrics)


def test_training_lowers_the_loss(uninterrupted):
    history, _ = uninterrupted()
    assert history[-1]["train_loss"] < history[0]["train_loss"]


@pytest.mark.parametrize("changes", [{}, {"distil": True}, {"ema_decay": None, "clip_grad": None}], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(train, uninterrupted, changes):
    whole = uninterrupted(**changes)
    with pytest.raises(InterruptedTrainingError):
        train(stop_after=1, **changes)
    logged = []
    assert_equal(train(logged=logged, **changes), whole)
    assert logged == whole[0]


def test_a_finished_run_is_not_trained_again(train):
    whole = train()
    assert_equal(train(poison=0), whole)


def test_a_fresh_run_ignores_the_checkpoint(train):
    train()
    with pytest.raises(UserError, match="not finite at step 0"):
        train(poison=0, fresh=True)


@pytest.fixture
def changed_libraries(monkeypatch):
    """Have checkpoints written by another timm until the returned function is called."""
    monkeypatch.setattr(fingerprints, "version", lambda name: "0.9" if name == "timm" else version(name))
    return lambda: monkeypatch.setattr(fingerprints, "version", version)


def test_a_checkpoint_of_other_code_is_adopted_on_request(train, uninterrupted, changed_libraries, tmp_path, capsys):
    whole = uninterrupted()
    capsys.readouterr()
    with pytest.raises(UserError, match=STOPPED.format(6)):
        train(terminated=after(asked(1, 1)))
    (theirs,) = (tmp_path / "checkpoints").iterdir()
    written = theirs.joinpath("checkpoint.pt").read_bytes()
    changed_libraries()
    with pytest.raises(UserError, match="not finite at step 0"):
        train(poison=0)
    capsys.readouterr()
    with pytest.raises(UserError, match=STOPPED.format(7)):
        train(adopt=True, terminated=lambda: signal.SIGTERM)
    line = f"ADOPT=1: lift resumes from {theirs}/checkpoint.pt, written before timm changed\n"
    assert capsys.readouterr().err == line
    adopted = []
    assert_equal(train(adopted=adopted), whole)  # by now the checkpoint is this code's own, which says whence it came
    assert adopted == [json.loads((theirs / "run.json").read_text())["fingerprint"]]
    assert theirs.joinpath("checkpoint.pt").read_bytes() == written


def test_no_checkpoint_of_other_parameters_is_adopted(train, uninterrupted, changed_libraries, tmp_path, capsys):
    whole = uninterrupted()
    capsys.readouterr()
    assert_equal(train({"recipe": {"lr": 1}}, adopt=True), whole)
    assert capsys.readouterr().err == "ADOPT=1: there is no checkpoint of lift; it starts from the beginning\n"
    changed_libraries()
    with pytest.raises(UserError, match=r"no checkpoint with these parameters, .* differs in of\.recipe\.lr; unset"):
        train({"recipe": {"lr": 2}}, adopt=True)
    with pytest.raises(UserError, match="FRESH=1 ignores checkpoints, ADOPT=1 asks for one"):
        train({"recipe": {"lr": 1}}, adopt=True, fresh=True)


def test_an_adopted_checkpoint_of_another_model_is_one_line(train, changed_libraries):
    train()
    changed_libraries()
    with pytest.raises(UserError, match=r"^ADOPT=1: .*checkpoint\.pt does not fit this code's lift \(.*unset ADOPT"):
        train(adopt=True, depth=3)
    with pytest.raises(UserError, match="not finite at step 0"):  # what does not fit is not taken over
        train(poison=0)


def test_the_fingerprint_holds_what_a_process_loads_of_the_project_to_train():
    """Against what importing the same modules loads; beside it, what they would import within functions."""
    names = [*fingerprints.TRAINS, "stages.core.distillation.task", "stages.core.losses.gram"]
    program = f"import sys\nfor name in {names!r}: __import__(name)\n"
    program += "print(*[module.__file__ for name, module in sys.modules.items() if name.startswith('stages.')])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    project = Path(fingerprints.__file__).resolve().parents[2]
    files = {Path(file).relative_to(project).as_posix() for file in loaded if Path(file).name != "__init__.py"}
    found = fingerprints.code_of(names)
    assert files <= found.keys() and {"core/train/loop.py", "core/losses/gram.py"} <= files
    assert found["core/train/loop.py"] == hashlib.sha256((project / "core/train/loop.py").read_bytes()).hexdigest()
    assert not [file for file in found if file.startswith("core/losses/") and file not in files]


def test_differences_are_named_by_their_keys():
    one = {"a": 1, "b": {"c": [1], "d": {"e": None}}, "f": None}
    assert fingerprints.differing(one, one) == []
    other = {"a": 1, "b": {"c": [2], "d": {}}, "g": None}
    assert fingerprints.differing(one, other) == ["b.c", "b.d.e", "f", "g"]


def test_another_identity_never_resumes(train):
    train("a")
    with pytest.raises(UserError, match="not finite at step 0"):
        train("b", poison=0)


@pytest.mark.parametrize("options", [{}, {"repeats": 3}], ids=str)  # both with random erasing
def test_workers_change_nothing(train, uninterrupted, options):
    assert_equal(train(workers=2, **options), uninterrupted(**options))


def test_taking_a_batch_in_micro_batches_changes_rounding_alone(train):
    options = {"repeats": 3, "distil": True}
    whole = train(root="whole", **options)
    divided = train(root="divided", device_batch=5, **options)  # 4 divides a batch of 16, 5 does not
    assert [entry["train_loss"] for entry in divided[0]] == pytest.approx([entry["train_loss"] for entry in whole[0]])
    torch.testing.assert_close(divided[1], whole[1], rtol=1e-3, atol=1e-4)


def test_repeated_augmentation_shows_a_third_of_the_images_three_times_each():
    sampled = list(EpochSampler(90, 0, batch=18, world=ALONE, repeats=3))
    indices = [index for keys in sampled for _, _, index, _ in keys]
    assert len(sampled) == 5 and len(set(indices)) == 30 and set(Counter(indices).values()) == {3}
    assert len({key for keys in sampled for key in keys}) == 90


@pytest.mark.parametrize(("size", "micro_batch"), [(1, 12), (2, 6), (2, 3), (4, 1)])
def test_processes_and_micro_batches_share_the_same_global_batches(size, micro_batch):
    whole = list(EpochSampler(50, 3, batch=12, world=ALONE, repeats=2))
    worlds = [World(rank, size, CPU) for rank in range(size)]
    options = {"batch": 12, "device_batch": micro_batch, "repeats": 2}
    ranks = [list(EpochSampler(50, 3, world=world, **options)) for world in worlds]
    count = 12 // size // micro_batch
    for batch, keys in enumerate(whole):
        shared = [key for rank in ranks for part in rank[batch * count : (batch + 1) * count] for key in part]
        assert shared == keys
    assert all(len(rank) == len(whole) * count for rank in ranks)


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(UserError, match="global_batch 16 cannot be shared evenly by 3 processes"):
        EpochSampler(64, 0, batch=16, world=World(0, 3, CPU))


def test_too_small_a_device_names_the_setting(train, monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("timm.task.ClassificationTask.forward", no_memory)
    with pytest.raises(UserError, match="too little memory for 16 images at a time; set DEVICE_BATCH to less, 8 say"):
        train()


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(train, uninterrupted):
    whole = uninterrupted()
    with pytest.raises(UserError, match=r"not finite at step 4 \(epoch 1, batch 0\)"):
        train(poison=1)
    assert_equal(train(), whole)


def test_a_folder_in_use_is_waited_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(resume, "WAIT_S", 0.05)
    checkpoints = CheckpointFolder(tmp_path, "lift", {}, {})
    with CheckpointFolder(tmp_path, "lift", {}, {}) as first:
        first.save({"step": 7})
    command = [sys.executable, "-c", HOLD_LOCK, str(checkpoints.folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        threading.Timer(0.2, other.stdin.close).start()
        with checkpoints:
            assert checkpoints.load() == {"step": 7}  # the other's result is taken
    assert capsys.readouterr().err == "waiting for another process that trains lift\n"


def test_waiting_for_a_folder_ends_by_signals(tmp_path, monkeypatch):
    def interrupt(_):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    monkeypatch.setattr(resume.time, "sleep", interrupt)
    with CheckpointFolder(tmp_path, "lift", {}, {}), pytest.raises(KeyboardInterrupt):
        CheckpointFolder(tmp_path, "lift", {}, {}).__enter__()


def test_all_processes_of_a_run_wait_together(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "WAIT_S", 0.0)
    answers = iter([True, True, False])  # what the one that locks says
    with CheckpointFolder(tmp_path, "lift", {}, {}, writes=False, in_any=lambda own: own or next(answers)):
        assert next(answers, None) is None


def after(calls):
    """A function that says no so many times, then that SIGTERM has come."""
    said = count(1)
    return lambda: signal.SIGTERM if next(said) > calls else None


def asked(epoch, position=0):
    """How often `terminated` is asked before the step or validation batch at `position` of an epoch.

    Once after each of its four steps, after each of the two batches to evaluate on, and at its end.
    """
    return epoch * (4 + 2 + 1) + position


STOPPED = r"^stopped by SIGTERM; the same command resumes at step {}$"


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (1, {}),
        (6, {"distil": True, "device_batch": 5}),
        (7, {"workers": 2, "repeats": 3}),
        (11, {"ema_decay": None, "precision": "bfloat16"}),
    ],
    ids=str,
)
def test_a_run_stopped_at_any_step_goes_on_as_if_it_had_not(train, uninterrupted, step, changes):
    whole = uninterrupted(**{name: value for name, value in changes.items() if name != "workers"})
    with pytest.raises(UserError, match=STOPPED.format(step)):
        train(terminated=after(asked(*divmod(step - 1, 4))), **changes)
    with pytest.raises(UserError, match=STOPPED.format(step + 1)):
        train(terminated=lambda: signal.SIGTERM, **changes)
    assert_equal(train(**changes), whole)


@pytest.mark.parametrize("position", [3, 4, 5])
def test_a_run_stopped_at_its_last_step_or_while_evaluating_only_evaluates_again(train, uninterrupted, position):
    whole, logged = uninterrupted(), []
    with pytest.raises(UserError, match=STOPPED.format(12)):
        train(terminated=after(asked(2, position)), logged=logged)
    assert logged == whole[0][:2]
    assert_equal(train(poison=2), whole)


def test_checkpoints_within_an_epoch_save_the_steps_before_a_crash(train, uninterrupted, splits):
    class Crashing(ImageList):
        left = 0

        def sample(self, index):
            Crashing.left -= 1
            if Crashing.left < 0:
                raise InterruptedTrainingError
            return super().sample(index)

    whole = uninterrupted()
    images = Crashing(splits[0].folder, splits[0].files, splits[0].labels)
    Crashing.left = 7 * 16 + 5  # six steps of twelve: a batch is loaded before the one ahead of it is trained on
    with pytest.raises(InterruptedTrainingError):
        train(images=images, checkpoint_s=0.0)
    Crashing.left = 6 * 16  # what is passed over is not loaded
    assert_equal(train(images=images), whole)
    assert Crashing.left == 0


def test_a_sampler_passes_over_the_first_batches():
    sampler = EpochSampler(50, 3, batch=12, world=World(1, 2, CPU), device_batch=3, repeats=2)
    whole = list(sampler)
    sampler.start = 3
    assert list(sampler) == whole[3 * 2 :]
    assert len(sampler) == len(whole) - 3 * 2


@pytest.mark.parametrize("sent", STOPS)
def test_a_run_that_any_signal_asks_to_stop_saves_first(train, uninterrupted, sent):
    whole = uninterrupted()
    logged = SimpleNamespace(append=lambda _: os.kill(os.getpid(), sent))
    before = signal.signal(sent, lambda *_: None)
    try:
        expected = rf"^stopped by {sent.name}; the same command resumes at step 4$"
        with pytest.raises(StoppedError, match=expected), stops_deferred() as terminated:
            train(logged=logged, terminated=terminated)
    finally:
        signal.signal(sent, before)
    assert_equal(train(), whole)


def stopped_block(*signals, first="", **variables):
    """What becomes of a process that gets signals while it defers them."""
    program = ["import os, signal", "from stages.core.base.errors import run", first]
    program += ["from stages.core.runtime.stopping import stops_deferred", "def main():", "    with stops_deferred():"]
    program += [f"        os.kill(os.getpid(), signal.{sent.name})" for sent in signals]
    program += ["        print('held', flush=True)", "    print('done')", "run(main)"]
    words = [sys.executable, "-c", "\n".join(program)]
    ended = subprocess.run(words, capture_output=True, text=True, env=os.environ | variables)
    return ended.stdout.split(), ended.stderr.strip(), ended.returncode


def test_a_signal_that_nobody_acted_on_takes_effect_afterwards():
    for sent in (signal.SIGTERM, signal.SIGHUP):
        line = f"stopped by {sent.name}; the same command goes on from what is saved"
        assert stopped_block(sent) == (["held"], line, 75)


def test_a_second_ctrl_c_ends_at_once_unless_a_launcher_sees_to_it():
    twice = (signal.SIGINT, signal.SIGINT)
    assert stopped_block(*twice) == ([], "", 130)
    assert stopped_block(*twice, RANK="0")[0] == ["held"]
    assert stopped_block(signal.SIGTERM, signal.SIGINT, signal.SIGTERM)[0] == ["held"]


def test_a_signal_that_is_ignored_from_the_start_stays_so():
    under_nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert stopped_block(signal.SIGHUP, first=under_nohup) == (["held", "done"], "", 0)


def test_a_reader_that_is_gone_ends_no_training():
    program = "from stages.core.train.progress import Progress\nfrom stages.core.runtime.distributed import World\n"
    program += "progress = Progress(['lift'], done=0, epochs=2, world=World(0, 1, __import__('torch').device('cpu')))\n"
    program += "input()\nfor epoch in progress:\n"
    program += "    progress.finished('lift', {'epoch': epoch, 'train_loss': 1.0, 'top1': 50.0})\n"
    program += "import sys\nprint(epoch, file=sys.stderr)\n__import__('os')._exit(0)"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        assert process.stdout.readline() == "lift on cpu: 2 epochs\n"
        process.stdout.close()
        assert process.communicate("go on\n")[1] == "1\n"


@pytest.fixture
def checkpoints(tmp_path):
    """An open folder of a run that saved 1, then 2."""
    with CheckpointFolder(tmp_path, "run", {"of": "a"}, {}) as folder:
        folder.save({"step": 1, "weights": torch.arange(1000.0)})
        folder.save({"step": 2, "weights": torch.arange(1000.0)})
        yield folder


def test_the_checkpoint_before_is_kept(checkpoints):
    assert checkpoints.load()["step"] == 2
    checkpoints.file.unlink()  # as when killed between the two renames
    assert checkpoints.load()["step"] == 1
    checkpoints.save({"step": 3})
    assert checkpoints.load()["step"] == 3
    assert {path.name for path in checkpoints.folder.iterdir()} == {"lock", "checkpoint.pt", "previous.pt", "run.json"}


def damaged(content, how):
    if isinstance(how, int):
        return content[:how]
    place = int(len(content) * float(how))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("how", [0, 10, 33, 1000, "0", "0.1", "0.5", "0.999"], ids=str)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(checkpoints, capsys, how):
    checkpoints.file.write_bytes(content := damaged(checkpoints.file.read_bytes(), how))
    assert checkpoints.load()["step"] == 1
    aside = checkpoints.file.with_suffix(".damaged")
    assert aside.read_bytes() == content
    reason = "its content does not agree with its digest"
    assert capsys.readouterr().err == f"warning: {aside} is damaged ({reason}); run resumes from the one before\n"
    checkpoints.previous.write_bytes(content)
    assert checkpoints.load() is None
    assert capsys.readouterr().err.endswith("; run starts over\n")


def test_damage_changes_no_result(train, tmp_path, capsys):
    whole = train()
    (file,) = tmp_path.glob("checkpoints/*/checkpoint.pt")
    for paths in ([file], [file, file.with_name("previous.pt")]):
        for path in paths:
            path.write_bytes(damaged(path.read_bytes(), "0.5"))
        assert_equal(train(), whole)
        assert "is damaged" in capsys.readouterr().err


def test_another_runs_checkpoint_is_refused(checkpoints, tmp_path, capsys):
    with CheckpointFolder(tmp_path, "run", {"of": "b"}, {}) as other:
        other.file.write_bytes(checkpoints.file.read_bytes())
        assert other.load() is None
    assert "it belongs to another run" in capsys.readouterr().err


def test_a_checkpoint_that_would_execute_is_refused(checkpoints, tmp_path, capsys):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    for written in (torch.save, lambda value, file: pickle.dump(value, file.open("wb"))):
        written({"identity": checkpoints.identity, "state": Malicious()}, tmp_path / "malicious")
        content = (tmp_path / "malicious").read_bytes()
        checkpoints.file.write_bytes(hashlib.sha256(content).digest() + content)
        checkpoints.load()
        assert "(it holds objects other than tensors)" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_is_told_and_harms_no_checkpoint(checkpoints):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"^no space left on the disk for .*checkpoint.pt; free some"):
            checkpoints.save({"step": 3, "weights": torch.arange(1000.0)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.load()["step"] == 2
    assert {path.name for path in checkpoints.folder.iterdir()} == {"lock", "checkpoint.pt", "previous.pt", "run.json"}


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(UserError, match="64 training images make no batch of 65"):
        EpochSampler(64, 0, batch=65, world=ALONE)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_ends_training_with_its_name(train, splits, workers):
    images = splits[0]
    (images.folder / images.files[5]).write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        train(workers=workers)
    assert str(caught.value).startswith(f"{images.folder / images.files[5]} cannot be read as an image")


def test_other_code_and_other_libraries_make_another_run(monkeypatch, tmp_path):
    def folder(code="a"):
        return CheckpointFolder(tmp_path, "run", {}, {"core/train/loop.py": code}).folder

    before = folder()
    assert folder() == before != folder("b")
    monkeypatch.setattr(fingerprints, "version", lambda name: "another" if name == "timm" else version(name))
    assert folder() != before
