"""charrnn-train: train a network on recordings or texts."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytecodec.console import DONE, Interruption, command, log, print_path
from bytecodec.errors import InputError, first_line
from charrnn import runtime
from charrnn.commands.flags import explicit_flags, needs, threads_of
from charrnn.commands.train_flags import LENGTH_FLAGS, check, parser
from charrnn.commands.train_messages import ProgressDisplay, log_end, log_plan
from charrnn.storage import run_dir
from charrnn.training import distributed
from charrnn.training.recipe import RECIPES, Settings

if TYPE_CHECKING:
    import torch

    from charrnn.training.distributed import World
    from charrnn.training.task import TrainingTask
    from charrnn.training.trainer import Trainer


@command
def charrnn_train(argv: Sequence[str] | None = None) -> int:
    """Train a network as the command line says, and return the exit code."""
    p = parser()
    with distributed.main_process_only():
        args, named = p.parse_args(argv), explicit_flags(p, argv)
        check(p, args, named)
    runtime.before_torch()

    with contextlib.ExitStack() as stack:
        world = stack.enter_context(distributed.join())
        args.quiet |= not world.is_main
        trainer = _open_run(args, named, stack, world)
        if world.is_main:
            _add_listeners(trainer, args, stack)
        interruption = stack.enter_context(Interruption())
        _add_hooks(trainer, interruption, args.quiet)
        resumed_at = trainer.state.iteration if args.resume else None
        trainer.train(stopped=lambda: bool(interruption))
        exit_code = int(world.all_reduce_max(interruption.exit_code))
    log_end(trainer, exit_code != DONE, resumed_at, args.quiet)
    if world.is_main:
        print_path(trainer.run.path)
    return exit_code


def _add_listeners(trainer: Trainer, args: Namespace, stack: contextlib.ExitStack) -> None:
    """Add the progress display and TensorBoard, which are closed with the stack."""
    display = ProgressDisplay(trainer, args.quiet, args.print_every)
    stack.callback(display.close)
    trainer.listeners.append(display)
    if trainer.run.config()["tensorboard"]:
        from charrnn.training.tensorboard import TensorBoard

        board = TensorBoard(trainer)
        stack.callback(board.end)
        trainer.listeners.append(board)


def _add_hooks(trainer: Trainer, interruption: Interruption, quiet: bool) -> None:
    """Add the sampler of checkpoints, if the run has samples, and the calibration at the end."""
    config = trainer.run.config()
    options = {"threads": config["threads"], "quiet": quiet, "stopped": lambda: bool(interruption)}
    samples = config["samples"]
    if samples["seconds"]:
        trainer.sample = trainer.task.sampler(trainer.run, **samples, seed=trainer.settings.seed, **options)
    trainer.calibrate = trainer.task.calibrator(trainer.run, trainer.settings, **options)


def _open_run(args: Namespace, named: set[str], stack: contextlib.ExitStack, world: World) -> Trainer:
    """Create or resume the run.

    With several processes the main one does so, and the others open the run afterwards. After a restart by torchrun,
    the command line is still that of a new run, but the run exists and is resumed.
    """
    existing = world.run_before_restart() if world.is_main else world.receive()
    if not world.is_main or (existing and not args.resume):
        args = Namespace(**{**vars(args), **dict.fromkeys(LENGTH_FLAGS), "resume": existing, "device": "auto"})
    trainer = _resume(args, stack, world) if args.resume else _create(args, named, stack, world)
    if world.is_main:
        world.publish(str(trainer.run.path.resolve()))
    return trainer


def _task_class(kind: str) -> type[TrainingTask]:
    from charrnn.frames.task import FrameTask
    from charrnn.training.task import SymbolTask

    classes: dict[str, type[TrainingTask]] = {"symbols": SymbolTask, "frames": FrameTask}
    return classes[kind]


def _create(args: Namespace, named: set[str], stack: contextlib.ExitStack, world: World) -> Trainer:
    """Create a run from the command line."""
    if args.tensorboard:
        _require_tensorboard()
    args.input = args.input or [_default_input()]
    run = run_dir.Run(run_dir.new_run(args.run_dir, args.input[0]))
    settings = _settings(args)
    threads = runtime.set_threads(threads_of(args))
    _check_rows(settings.batch_size, world)
    with _removed_unless_finished(run, stack):
        if args.preset and args.init_from:
            what = f"its sizes are ignored, because the network is that of {args.init_from}"
            log(f"--preset {args.preset}: {what}.", args.quiet)
        task = _task_class("frames" if args.frames else "symbols").create(args, named, run, settings)
        if args.sample_seconds and not task.rate:
            raise InputError(f"--sample-seconds: {', '.join(task.data.names)} is text, which has no duration.")
        config = _config(args, task, threads, world)
        trainer = _trainer(task, task.adapt(settings), config, run, world, args.quiet, args.gpu_layers)
        config["yardsticks"] = task.baselines(args.quiet)
        trainer.save_resume()
        run.write_config(config)
    log_plan(trainer, config, args.quiet)
    return trainer


def _settings(args: Namespace) -> Settings:
    """Return the training settings: those of the recipe, and those that are given."""
    device = runtime.choose_device(args.device)
    fields = {name: getattr(args, name, None) for name in Settings.__dataclass_fields__ if name != "gpu_layers"}
    fields = RECIPES[args.recipe] | {name: value for name, value in fields.items() if value is not None}
    fields |= {"max_epochs": args.max_epochs, "precision": runtime.choose_precision(args.precision, device)}
    return Settings(**fields | {"device": device})


def _config(args: Namespace, task: TrainingTask, threads: int, world: World) -> dict[str, Any]:
    """Return config.json of a new run, without the training settings."""
    return {
        "inputs": list(task.data.names),
        **({"skipped": list(task.data.skipped)} if task.data.skipped else {}),
        "symbols": len(task.data.ids),
        **task.metadata,
        "init_from": args.init_from,
        "val_frac": args.val_frac,
        "test_frac": args.test_frac,
        "threads": threads,
        "processes": world.size,
        "samples": {"seconds": args.sample_seconds, "temperatures": args.temperature or [1.0]},
        "tensorboard": args.tensorboard,
    }


@contextlib.contextmanager
def _removed_unless_finished(run: run_dir.Run, stack: contextlib.ExitStack) -> Iterator[None]:
    """Make and lock the folder of a run, and remove it again if the block fails."""
    existed = run.path.exists()
    run_dir.make_folder(run.path)
    try:
        stack.enter_context(run.locked())
    except BaseException:  # another process is using the folder
        if not existed:
            with contextlib.suppress(OSError):
                run.path.rmdir()
        raise
    try:
        run.clear()  # removes files that a killed process left
        yield
    except BaseException:
        if existed:
            run.clear()
            run.lock_file.unlink()
        else:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _default_input() -> str:
    for folder in (Path(), Path(__file__).parents[2]):
        voice = folder / "data" / "voice.wav"
        if voice.is_file():
            log(f"no INPUT is given: training on the demo recording, {voice}.")
            return str(voice)
    raise InputError("give an INPUT: a recording, a text, or a folder of them, such as `charrnn-train voice.wav`.")


def _resume(args: Namespace, stack: contextlib.ExitStack, world: World) -> Trainer:
    """Resume a run from its config.json."""
    from charrnn.storage.checkpoint_format import LOAD_ERRORS

    run = run_dir.find_run(args.resume)
    if run.is_voice:
        raise InputError(
            f"{args.resume} is a bundled voice: start a new run with --init-from {run.path.resolve().name}."
        )
    run.check_links()
    if world.is_main:
        stack.enter_context(run.locked())
        run.remove_temporary_files()
    config = run.config(complete=True)
    if not run.resume_file.exists():  # a start at iteration 0 would truncate the logs
        name = shlex.quote(str(run.path))
        raise InputError(f"there is no {run.resume_file} to resume from: start a new run with --init-from {name}.")
    if world.is_main and config["tensorboard"]:
        _require_tensorboard()
    try:
        settings, moves_to_gpu = _resumed_settings(args, config, run.config_file)
        task = _task_class(config.get("kind", "symbols")).reopen(run, config)
        _check_rows(settings.batch_size, world)
        if config["processes"] != world.size:  # divide the cores among the new number of processes
            config |= {"processes": world.size, "threads": runtime.set_threads(runtime.default_threads())}
        runtime.set_threads(config["threads"])
    except (*LOAD_ERRORS, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = first_line(error)
        raise InputError(
            f"{run.config_file} is damaged or was edited ({reason}): restore it, or start a new run."
        ) from None
    if len(task.data.ids) != config["symbols"]:
        raise InputError(
            f"{run.corpus_file} has {len(task.data.ids):,} symbols, and the run was created with {config['symbols']:,}."
        )
    trainer = _trainer(task, settings, config, run, world, args.quiet, "auto" if moves_to_gpu else None)
    if world.is_main:
        run.write_config(config)
    if _lengths(args):
        log("the limit changed: the learning-rate schedule is recomputed.", args.quiet)
    log(f"{run.path} is resumed at iteration {trainer.state.iteration:,}.", args.quiet)
    log_plan(trainer, config, args.quiet)
    return trainer


def _lengths(args: Namespace) -> dict[str, Any]:
    """Return all limits of the length if one is given, which replace those of the run; otherwise {}."""
    lengths = {name: getattr(args, name) for name in LENGTH_FLAGS}
    return lengths if any(value is not None for value in lengths.values()) else {}


def _resumed_settings(args: Namespace, config: dict[str, Any], source: Path) -> tuple[Settings, bool]:
    """Return the settings, with a new limit or device if one is given, and whether the run moves to an NVIDIA GPU."""
    training = config["training"]
    training.update(_lengths(args))
    device_before = training.get("device")
    if args.device != "auto":
        training["device"] = runtime.choose_device(args.device)
    settings = Settings.from_json(training, source)
    if settings.precision == "bf16" and not runtime.computes_bf16(settings.device):
        log("this processor cannot compute in bf16: the run continues in fp32.", args.quiet)
        settings = dataclasses.replace(settings, precision="fp32")
    return settings, settings.device == "cuda" != device_before


def _trainer(
    task: TrainingTask,
    settings: Settings,
    config: dict[str, Any],
    run: run_dir.Run,
    world: World,
    quiet: bool,
    gpu_layers: str | None = None,
) -> Trainer:
    """Return the trainer of a run, and add the training settings to its config.

    ``gpu_layers`` is the backend that is requested; None keeps that of the settings.
    """
    from charrnn.cuda.backends import Backend
    from charrnn.training.trainer import Trainer

    _check_size(task, settings)
    runtime.select_gpu(settings.device)
    task.model.to(settings.device)
    settings = _with_backend(gpu_layers, task, settings, world, quiet)
    config["training"] = settings.to_json()
    backend = Backend(settings.gpu_layers if settings.device == "cuda" else "torch")
    return Trainer(task, settings, run, world=world, backend=backend)


def _with_backend(requested: str | None, task: TrainingTask, settings: Settings, world: World, quiet: bool) -> Settings:
    """Return the settings with the name of the backend that the run uses on a GPU."""
    import torch

    from charrnn.cuda import backends
    from charrnn.data.batches import ContiguousBatches

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        shape = (settings.batch_size, settings.seq_length)
        batches = ContiguousBatches(task.parts["train"], *shape, world.rank, world.size, task.context)
        x, y = (torch.as_tensor(part, device=settings.device) for part in batches.at(0, settings.seq_length))
        return x, y

    name = backends.choose_backend(
        requested,
        settings.gpu_layers,
        task.model,
        batch,
        device=settings.device,
        precision=settings.precision,
        processes=world.size,
        quiet=quiet,
    )
    return dataclasses.replace(settings, gpu_layers=name)


def _check_size(task: TrainingTask, settings: Settings) -> None:
    """Raise InputError if the training part is smaller than a batch."""
    count = len(task.parts["train"])
    needed = settings.batch_size * settings.seq_length + task.context.max_lag
    if count < needed:
        raise InputError(
            f"{', '.join(task.data.names)}: {count:,} {task.units} to train on are too few for one batch of "
            f"{settings.batch_size} rows x {settings.seq_length} steps, which needs {needed:,}. "
            "Lower --batch-size or --seq-length, or give more data."
        )


def _check_rows(rows: int, world: World) -> None:
    if rows < world.size:
        raise InputError(f"--batch-size {rows} is too few rows for {world.size} processes: start at most {rows}.")


def _require_tensorboard() -> None:
    """Raise InputError if TensorBoard is not installed, before anything is prepared."""
    with needs("tensorboard"):
        import torch.utils.tensorboard  # noqa: F401


if __name__ == "__main__":
    sys.exit(charrnn_train())
