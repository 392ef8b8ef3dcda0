"""charrnn-train: train a network on recordings or texts."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytecodec
from bytecodec.console import DONE, Interruption, command, log, print_path, progress
from bytecodec.errors import InputError, first_line
from charrnn import runtime
from charrnn.commands.flags import given, needs
from charrnn.commands.train_config import NO_SAMPLES, check_config, is_frames, uses_tensorboard
from charrnn.commands.train_flags import LENGTH_FLAGS, MODEL_FLAGS, check, parser, sound_options
from charrnn.commands.train_words import say_how_it_ended, say_the_plan
from charrnn.storage import run_dir
from charrnn.training import distributed
from charrnn.training.recipe import LAYER_NORM, RECIPES, Settings

if TYPE_CHECKING:
    from charrnn.commands.progress import Narrator
    from charrnn.data.corpus import Corpus
    from charrnn.models.char_rnn import CharRNN
    from charrnn.storage.checkpoint import Checkpoint
    from charrnn.training.distributed import World
    from charrnn.training.samples import CheckpointSampler
    from charrnn.training.trainer import Trainer


@command
def charrnn_train(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-train; returns the exit code."""
    p = parser()
    with distributed.main_process_only():
        args = p.parse_args(argv)
        named = given(p, argv)
        check(p, args, named)
    runtime.before_torch()
    from charrnn.commands.progress import Narrator

    with contextlib.ExitStack() as stack:
        world = stack.enter_context(distributed.join())
        args.quiet |= not world.is_main
        narrator = Narrator(args.quiet, args.print_every)
        trainer = _begin(args, named, stack, narrator, world)
        narrator.begin(trainer)
        stack.callback(narrator.end)
        if world.is_main and uses_tensorboard(trainer.run.config()):
            from charrnn.training.tensorboard import TensorBoard

            board = TensorBoard(trainer)
            stack.callback(board.end)
            trainer.listeners.append(board)
        interruption = stack.enter_context(Interruption())
        trainer.sample = _sampler(trainer, interruption, args.quiet)
        trainer.train(stopped=lambda: bool(interruption))
        exit_code = int(world.all_reduce_max(interruption.exit_code))
    say_how_it_ended(trainer, exit_code != DONE, args.quiet)
    if world.is_main:
        print_path(trainer.run.path)
    return exit_code


def _begin(args: Namespace, named: set[str], stack: contextlib.ExitStack, narrator: Narrator, world: World) -> Trainer:
    """The run as the command line says. Of several processes the one that leads makes or finds it, and the others open
    it when it is ready; so they do after a restart by torchrun, whose command line is that of the beginning."""
    begun = world.run_before_restart() if world.is_main else world.receive()
    if not world.is_main or (begun and not args.resume):
        args = Namespace(**{**vars(args), **dict.fromkeys(LENGTH_FLAGS), "resume": begun, "device": "auto"})
    trainer = _resumed(args, stack, narrator, world) if args.resume else _new(args, named, stack, narrator, world)
    if world.is_main:
        world.publish(str(trainer.run.path.resolve()))
    return trainer


def _new(args: Namespace, named: set[str], stack: contextlib.ExitStack, narrator: Narrator, world: World) -> Trainer:
    """A new run: data, network and settings from the command line."""
    if args.tensorboard:
        _require_tensorboard()
    inputs = args.input or [_default_input()]
    run = run_dir.Run(run_dir.new_run(args.run_dir, inputs[0]))
    device = runtime.choose_device(args.device)
    threads = runtime.set_threads(runtime.default_threads() if args.threads is None else args.threads)
    asked = {name: getattr(args, name, None) for name in Settings.__dataclass_fields__ if name != "gpu_layers"}
    fields = RECIPES[args.recipe] | {name: value for name, value in asked.items() if value is not None}
    fields |= {"max_epochs": args.max_epochs, "precision": runtime.choose_precision(args.precision, device)}
    settings = Settings(**fields | {"device": device})
    _check_rows(settings.batch_size, world)
    model: Any
    corpus: Any
    with _removed_unless_finished(run, stack):
        if args.frames:
            from charrnn.commands import train_frames

            model, corpus, facts = train_frames.make(args, named, inputs, run)
            settings = dataclasses.replace(settings, seq_length=model.config.spacing)
        else:
            model, corpus, facts = _make_symbols(args, named, inputs, run, settings)
        if args.sample_seconds and not facts["rate"]:
            raise InputError(f"--sample-seconds: {', '.join(corpus.names)} is text, which has no seconds.")
        config = {
            "inputs": list(corpus.names),
            **({"skipped": list(corpus.skipped)} if corpus.skipped else {}),
            "symbols": len(corpus.ids),
            **facts,
            "init_from": args.init_from,
            "val_frac": args.val_frac,
            "test_frac": args.test_frac,
            "threads": threads,
            "processes": world.size,
            "samples": {"seconds": args.sample_seconds, "temperatures": args.temperature or [1.0]},
            "tensorboard": args.tensorboard,
            "training": settings.to_json(),
        }
        trainer = _trainer(model, corpus, settings, config, run, narrator, world, args.gpu_layers)
        config["yardsticks"] = _yardsticks(trainer, corpus, config, args.quiet)
        trainer.save_resume()
        run.write_config(config)
    say_the_plan(trainer, config, args.quiet)
    return trainer


def _make_symbols(
    args: Namespace, named: set[str], inputs: Sequence[str], run: run_dir.Run, settings: Settings
) -> tuple[CharRNN, Corpus, dict[str, Any]]:
    """Network, data, and what config.json says of them, for a new run of a character network."""
    from charrnn.data import corpus as corpora
    from charrnn.models.char_rnn import build
    from charrnn.models.config import ModelConfig
    from charrnn.storage.checkpoint import load

    old = load(args.init_from) if args.init_from else None
    if old and old.rate:  # what its bytes mean, unless the command line says otherwise
        args.rate = args.rate if "rate" in named else old.rate
        args.mulaw = args.mulaw or old.encoding == "mulaw"
    options = sound_options(args, args.rate)
    table = bytecodec.read_table(args.table) if args.table else None
    known = old.vocab if old else None
    corpus = corpora.prepare(
        inputs, run.corpus_file, options, known, args.quiet, table, args.encoding, args.skip_unreadable
    )
    is_sound = corpus.vocab.alphabet is not None
    if old:
        model = old.model
        _check_same_network(args, named, model.config)
    else:
        shape = {name: getattr(args, name) for name in MODEL_FLAGS}
        shape["layer_norm"] = LAYER_NORM[args.recipe]
        amounts = is_sound and not options.mulaw  # G.711's codes are not in the order of what they stand for
        model = build(ModelConfig(len(corpus.vocab), **shape), args.seed, settings.smooth and amounts)
    return (
        model,
        corpus,
        {
            "rate": options.rate if is_sound else None,
            "encoding": options.encoding if is_sound else None,
            **({} if is_sound else {"text_encoding": args.encoding}),
            "sound": corpus.sound.to_json() if corpus.sound else None,
            "table": args.table,
            "vocab": corpus.vocab.to_json(),
            "model": model.config.to_json(),
        },
    )


def _yardsticks(trainer: Trainer, corpus: Corpus, config: dict[str, Any], quiet: bool) -> dict[str, float]:
    """What others take for the validation part, to be held against its loss; {} where there is no such part."""
    from charrnn.data import baselines

    val, train = trainer.parts["val"], trainer.parts["train"]
    if is_frames(config):
        samples = val[trainer.context.max_lag :]  # the targets
        return baselines.measure_frame_baselines(samples, config["rate"]) if len(samples) else {}
    if len(val) < 2:
        return {}
    with progress(baselines.steps(val, train), " symbols", quiet, unit_scale=True, desc="yardsticks") as bar:
        mulaw = config["encoding"] == "mulaw"
        return baselines.measure_baselines(val, train, corpus.vocab, config["rate"], mulaw, bar.update)


def _resumed(args: Namespace, stack: contextlib.ExitStack, narrator: Narrator, world: World) -> Trainer:
    """A run that goes on, as its config.json says."""
    from charrnn.data import corpus as corpora
    from charrnn.data.vocab import Vocab
    from charrnn.models.char_rnn import CharRNN
    from charrnn.models.config import ModelConfig
    from charrnn.storage.checkpoint import meta_model
    from charrnn.storage.checkpoint_format import UNUSABLE

    run = run_dir.find_run(args.resume)
    run.check_links()
    if world.is_main:
        stack.enter_context(run.locked())
        run.sweep()
    config = run.config()
    if not run.resume_file.exists():  # to begin at 0 would cut the logs away
        raise InputError(
            f"there is no {run.resume_file} to go on from: start a new run with --init-from {run.path} instead."
        )
    if world.is_main and uses_tensorboard(config):
        _require_tensorboard()
    lengths = {name: getattr(args, name) for name in LENGTH_FLAGS}
    model: Any
    corpus: Any
    try:
        if any(value is not None for value in lengths.values()):
            config["training"].update(lengths)
            log("the length is new, so the schedule is planned anew.", args.quiet)
        device_before = config["training"].get("device")
        if args.device != "auto":
            config["training"]["device"] = runtime.choose_device(args.device)
        settings = Settings.from_json(config["training"])
        if not is_frames(config):
            shape = ModelConfig(**config["model"])
            meta_model(run.resume_file, shape.layers, lambda: CharRNN(shape), "model.")
            model = CharRNN(shape)
            corpus = corpora.open_corpus(run.corpus_file, Vocab.from_json(config["vocab"]), tuple(config["inputs"]))
        else:
            from charrnn.commands import train_frames

            model, corpus = train_frames.reopen(run, config)
        check_config(config)
        _check_rows(settings.batch_size, world)
        if config.get("processes", 1) != world.size:  # the cores are shared anew
            config |= {"processes": world.size, "threads": runtime.set_threads(runtime.default_threads())}
        runtime.set_threads(config["threads"])
    except (*UNUSABLE, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = first_line(error)
        raise InputError(f"{run.config_file} is not as charrnn-train wrote it ({reason}).") from None
    if len(corpus.ids) != config["symbols"]:
        raise InputError(
            f"{run.corpus_file} holds {len(corpus.ids):,} symbols, and the run began with {config['symbols']:,}."
        )
    backend = "auto" if settings.device == "cuda" != device_before else None  # a run that moves to a GPU chooses one
    trainer = _trainer(model, corpus, settings, config, run, narrator, world, backend)
    if world.is_main:
        run.write_config(config)
    log(f"{run.path} goes on at iteration {trainer.place.iteration:,}.", args.quiet)
    say_the_plan(trainer, config, args.quiet)
    return trainer


def _sampler(trainer: Trainer, interruption: Interruption, quiet: bool) -> CheckpointSampler | None:
    """What makes the sound of each checkpoint, where that was asked for."""
    from charrnn.training.samples import CheckpointSampler, FrameSampler

    config = trainer.run.config()
    samples = config.get("samples", NO_SAMPLES)
    if not samples["seconds"]:
        return None
    seed = trainer.settings.seed
    kind = FrameSampler if is_frames(config) else CheckpointSampler
    threads = config["threads"]
    return kind(trainer.run, **samples, seed=seed, threads=threads, quiet=quiet, stopped=lambda: bool(interruption))


def _require_tensorboard() -> None:
    """Raise InputError if TensorBoard is not installed, before anything is prepared."""
    with needs("tensorboard"):
        import torch.utils.tensorboard  # noqa: F401


def _check_rows(rows: int, world: World) -> None:
    if rows < world.size:
        raise InputError(f"--batch-size {rows} is too few rows for {world.size} processes: start at most {rows}.")


def _trainer(
    model: Any,
    corpus: Any,
    settings: Settings,
    config: dict[str, Any],
    run: run_dir.Run,
    narrator: Narrator,
    world: World,
    gpu_layers: str | None = None,
) -> Trainer:
    """A trainer of a new run, or, without ``gpu_layers``, of one that goes on. The config gets its settings."""
    from charrnn.training.trainer import Trainer

    if is_frames(config):
        from charrnn.commands import train_frames

        brings = train_frames.task(model, corpus, config)
    else:
        brings = _symbol_task(model, corpus, config)
    parts = brings["parts"]
    needed = settings.batch_size * settings.seq_length + brings["context"].max_lag
    if len(parts["train"]) < needed:
        raise InputError(
            f"{', '.join(corpus.names)}: {len(parts['train']):,} symbols to train on are too few for one batch of "
            f"{settings.batch_size} rows x {settings.seq_length} steps, which takes {needed:,}. "
            "Lower --batch-size or --seq-length, or give more."
        )
    runtime.select_gpu(settings.device)
    model = model.to(settings.device)
    settings = _with_layers(gpu_layers, model, brings, settings, world, narrator.quiet)
    config["training"] = settings.to_json()
    return Trainer(
        model, settings=settings, run=run, listeners=[narrator] if world.is_main else [], world=world, **brings
    )


def _with_layers(
    asked: str | None, model: Any, brings: dict[str, Any], settings: Settings, world: World, quiet: bool
) -> Settings:
    """Set the backend of a GPU; return the settings with its name."""
    import torch

    from charrnn.cuda.backends import choose, set_backend
    from charrnn.data.batches import ContiguousBatches

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        shape = (settings.batch_size, settings.seq_length)
        batches = ContiguousBatches(brings["parts"]["train"], *shape, world.rank, world.size, brings["context"])
        x, y = (torch.as_tensor(part, device=settings.device) for part in batches.at(0, settings.seq_length))
        return x, y

    backend = choose(asked, model, batch, settings, world.size, quiet)
    if settings.device == "cuda":
        set_backend(model, backend)
    return dataclasses.replace(settings, gpu_layers=backend)


def _symbol_task(model: CharRNN, corpus: Corpus, config: dict[str, Any]) -> dict[str, Any]:
    """What a character network brings to its `Trainer`."""
    from charrnn.data.batches import NEXT_SYMBOL
    from charrnn.storage.checkpoint import Checkpoint

    def package(step: int, epoch: float, train_loss: float | None) -> Checkpoint:
        made = Checkpoint(model, corpus.vocab, step=step, epoch=epoch, train_loss=train_loss)
        made.rate, made.encoding, made.sound = config["rate"], config["encoding"], config.get("sound")
        return made

    return {
        "parts": corpus.split(config["val_frac"], config["test_frac"]),
        "package": package,
        "context": NEXT_SYMBOL,
    }


@contextlib.contextmanager
def _removed_unless_finished(run: run_dir.Run, stack: contextlib.ExitStack) -> Iterator[None]:
    """Make a folder for a run, lock it, and take all of it away again if the run does not come to be."""
    existed = run.path.exists()
    run_dir.make_folder(run.path)
    try:
        stack.enter_context(run.locked())
    except BaseException:  # what is in it is another's
        if not existed:
            with contextlib.suppress(OSError):
                run.path.rmdir()
        raise
    try:
        run.clear()  # of what a trainer left that was killed here
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
            log(f"NO INPUT WAS GIVEN: training on the demo recording, {voice}.")
            return str(voice)
    raise InputError("give an INPUT: a recording, a text, or a folder of them, such as `charrnn-train voice.wav`.")


def _check_same_network(args: Namespace, named: set[str], config: Any) -> None:
    for name in MODEL_FLAGS:
        if name in named and getattr(args, name) != getattr(config, name):
            flag = "--" + name.replace("_", "-")
            has = getattr(config, name)
            what = f"{flag} {has}" if has is not None else f"--cell {config.cell}, which knows no {flag}"
            raise InputError(f"{args.init_from} has {what}: leave {flag} out.")


if __name__ == "__main__":
    sys.exit(charrnn_train())
