"""Interface between the trainer and a kind of network: the network, its data and its checkpoints."""

from __future__ import annotations

import abc
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

import bytecodec
from bytecodec.console import log, progress
from bytecodec.errors import InputError
from bytecodec.pcm import looks_like_mulaw
from charrnn.data import baselines
from charrnn.data.batches import NEXT_SYMBOL, ContextWindow
from charrnn.data.corpus import Corpus, open_corpus, prepare_corpus
from charrnn.data.recordings import SoundOptions
from charrnn.data.vocab import Ids, Vocab
from charrnn.engines.cpu.predictor import use_compiled
from charrnn.engines.level import recording_levels
from charrnn.models.char_rnn import CharRNN, Layers, build
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint import Checkpoint, Saveable, load, meta_model, model_tensors, set_model_tensors
from charrnn.storage.checkpoint_format import PREDICTIONS_FORMAT, read_metadata
from charrnn.storage.run_dir import Run
from charrnn.training.distributed import main_process_only
from charrnn.training.evaluate import in_bits
from charrnn.training.recipe import DEFAULT_RECIPE, NETWORKS, SAMPLES, Settings

FORMAT_SAMPLES = 1 << 20  # of a text of sound, from which mu-law is told from linear samples
OF_RECORDINGS = {"channel", "remove_dc", "normalize", "gain"}  # options of inputs that are recordings
TRAINING_FIELDS = ("dropout", "noise")  # of a configuration, with which --init-from can change a network
NOISE_WITHOUT_SAMPLES = "--noise is for networks with --context or --prediction: leave it out."

Network = TypeVar("Network", bound=Layers)


class TrainingTask(abc.ABC):
    """A network and its data, ready to be trained.

    ``data`` has the ``ids`` (n,) of the run on disk, and the ``names`` of its files and of those that were ``skipped``;
    ``parts`` are the ids of train, val and test. ``metadata`` are the keys of config.json on data and network.
    """

    unit: ClassVar[str] = "symbol"  # of losses in bits
    units: ClassVar[str] = "symbols"  # of the data

    def __init__(
        self, model: Layers, data: Any, parts: Mapping[str, Ids], context: ContextWindow, metadata: Mapping[str, Any]
    ) -> None:
        self.model, self.data, self.parts, self.context, self.metadata = model, data, parts, context, metadata

    @classmethod
    @abc.abstractmethod
    def create(cls, options: Namespace, given: set[str], run: Run, settings: Settings) -> Self:
        """Prepare the data and build the network of a new run.

        The options are those of charrnn-train, of which some are ``given`` on the command line.
        """

    @classmethod
    @abc.abstractmethod
    def reopen(cls, run: Run, config: Mapping[str, Any]) -> Self:
        """Open the data and build the network of a run that is resumed, from its config.json.

        If it is not valid, the error is one of `charrnn.storage.checkpoint_format.LOAD_ERRORS`.
        """

    @property
    def rate(self) -> int | None:
        """The sampling rate in Hz; None for text."""
        rate: int | None = self.metadata["rate"]
        return rate

    def adapt(self, settings: Settings) -> Settings:
        """Return the settings with the values that the network prescribes."""
        return settings

    def bits(self, loss: float) -> float:
        """Convert a loss to bits per symbol."""
        return in_bits(loss)

    def counts(self) -> dict[str, int]:
        """Return the number of symbols in each part."""
        return {name: len(ids) for name, ids in self.parts.items()}

    @abc.abstractmethod
    def description(self) -> str:
        """Describe the network besides its layers."""

    @abc.abstractmethod
    def checkpoint(self, step: int, epoch: float, train_loss: float | None) -> Saveable:
        """Return the checkpoint of an iteration, with the current weights."""

    @abc.abstractmethod
    def baselines(self, quiet: bool) -> dict[str, float]:
        """Return the bits per symbol of other coders on the validation part, by name; {} without such a part."""

    @abc.abstractmethod
    def sampler(self, run: Run, **options: Any) -> Callable[[int], None]:
        """Return a function that writes the samples of a checkpoint (`charrnn.training.samples.CheckpointSampler`)."""

    def calibrator(self, run: Run, settings: Settings, **options: Any) -> Callable[[int], None] | None:
        """Return a function that calibrates a checkpoint, or None if these networks are not calibrated."""
        return None


class SymbolTask(TrainingTask):
    """A character network on recordings or texts."""

    OPTIONS = ("cell", "rnn_size", "proj_size", "layers", "wordvec_size", "forget_bias", "dropout")  # of a ModelConfig

    model: CharRNN
    data: Corpus

    def __init__(self, model: CharRNN, data: Corpus, metadata: Mapping[str, Any], val_frac: float, test_frac: float):
        super().__init__(model, data, data.split(val_frac, test_frac), NEXT_SYMBOL, metadata)
        with main_process_only():
            use_compiled(model)
        self._levels = recording_levels(self.parts["train"]) if model.config.predictors else (None, None)

    @classmethod
    def create(cls, options: Namespace, given: set[str], run: Run, settings: Settings) -> Self:
        old = load(options.init_from) if options.init_from else None
        if old and old.config.reads_samples and options.mulaw:
            raise InputError(f"{options.init_from} reads linear samples as numbers: leave --mulaw out.")
        sound = sound_options(options, given, old.rate if old else None, bool(old and old.encoding == "mulaw"))
        corpus = prepare_corpus(
            options.input,
            run.corpus_file,
            sound,
            old.vocab if old else None,
            options.quiet,
            bytecodec.read_table(options.table) if options.table else None,
            options.encoding,
            options.skip_unreadable,
        )
        is_sound = corpus.vocab.alphabet is not None
        if not corpus.sound and (unused := sorted(given & OF_RECORDINGS)):
            flag = "--" + unused[0].replace("_", "-")
            log(f"{flag} has no effect, because there is no recording among the inputs.", options.quiet)
        if is_sound and not corpus.sound:
            _check_format(corpus.ids[:FORMAT_SAMPLES], sound.mulaw)
        if old:
            check_same_network(
                options, given, old.config, {name: name for name in (*cls.OPTIONS, *SAMPLES[DEFAULT_RECIPE])}
            )
            model = with_training_fields(old.model, options, given)
        else:
            # The ids of mu-law bytes are not in the order of the amplitudes.
            is_linear = is_sound and not sound.mulaw
            fields = {name: getattr(options, name) for name in cls.OPTIONS} | NETWORKS[options.recipe]
            if is_linear:
                fields |= sample_fields(options, given)
            else:
                check_no_sample_flags(options, given)
            model = build(ModelConfig(len(corpus.vocab), **fields), options.seed, settings.smooth_init and is_linear)
        metadata = {
            "rate": sound.rate if is_sound else None,
            "encoding": sound.encoding if is_sound else None,
            **({} if is_sound else {"text_encoding": options.encoding}),
            "sound": corpus.sound.to_json() if corpus.sound else None,
            "table": options.table,
            "vocab": corpus.vocab.to_json(),
            "model": model.config.to_json(),
        }
        return cls(model, corpus, metadata, options.val_frac, options.test_frac)

    @classmethod
    def reopen(cls, run: Run, config: Mapping[str, Any]) -> Self:
        shape = ModelConfig.from_json(config["model"])
        if shape.reads_samples and not config["rate"]:
            raise ValueError("a network that reads samples has no rate")
        if shape.reads_samples and read_metadata(run.resume_file, "resume")["format"] < PREDICTIONS_FORMAT:
            raise InputError(
                f"{run.path} is from an earlier version, which read samples in another way: start a new run."
            )
        meta_model(run.resume_file, shape.layers, lambda: CharRNN(shape), "model.")  # before memory is allocated
        corpus = open_corpus(run.corpus_file, Vocab.from_json(config["vocab"]), tuple(config["inputs"]))
        return cls(CharRNN(shape), corpus, config, config["val_frac"], config["test_frac"])

    def description(self) -> str:
        config = self.model.config
        samples = f", context of {config.context} samples" if config.context else ""
        samples += ", linear prediction" if config.predictors else ""
        return f"embedding size {config.wordvec_size}, vocabulary {config.vocab_size}{samples}"

    def checkpoint(self, step: int, epoch: float, train_loss: float | None) -> Checkpoint:
        made = Checkpoint(self.model, self.data.vocab, step=step, epoch=epoch, train_loss=train_loss)
        made.rate, made.encoding, made.sound = self.rate, self.metadata["encoding"], self.metadata.get("sound")
        made.level, made.loudest = self._levels
        return made

    def baselines(self, quiet: bool) -> dict[str, float]:
        val, train = self.parts["val"], self.parts["train"]
        if len(val) < 2:
            return {}
        with progress(baselines.total_symbols(val, train), " symbols", quiet, unit_scale=True, desc="baselines") as bar:
            mulaw = self.metadata["encoding"] == "mulaw"
            return baselines.measure_baselines(val, train, self.data.vocab, self.rate, mulaw, bar.update)

    def sampler(self, run: Run, **options: Any) -> Callable[[int], None]:
        from charrnn.training.samples import SymbolSampler

        return SymbolSampler(run, **options)

    def calibrator(self, run: Run, settings: Settings, **options: Any) -> Callable[[int], None] | None:
        if not self.model.config.reads_samples:
            return None
        from charrnn.training.samples import Calibrator

        assert self.rate  # as `reopen` checks
        return Calibrator(run, self.parts["train"], self.rate, settings.batch_size * settings.seq_length, **options)


def sample_fields(options: Namespace, given: set[str]) -> dict[str, Any]:
    """Return the fields of a ModelConfig on samples as numbers: as given, and otherwise as the recipe sets them."""
    fields = {
        name: getattr(options, name) if name in given else value for name, value in SAMPLES[options.recipe].items()
    }
    if fields["context"] == 0 and fields["prediction"] == "none":
        if "noise" in given and fields["noise"]:
            raise InputError(NOISE_WITHOUT_SAMPLES)
        fields["noise"] = 0.0
    return fields


def with_training_fields(model: Network, options: Namespace, given: set[str]) -> Network:
    """Return the network of --init-from with the `TRAINING_FIELDS` that are given."""
    config = model.config
    fields = {name: getattr(options, name) for name in TRAINING_FIELDS if name in given}
    if not fields:
        return model
    if fields.get("noise") and not config.reads_samples:
        raise InputError(NOISE_WITHOUT_SAMPLES)
    changed = type(model)(replace(config, **fields))
    set_model_tensors(changed, model_tensors(model))
    return changed


def _check_format(ids: Ids, mulaw: bool) -> None:
    """Report on stderr if a text of sound seems to have been written with the other setting of --mulaw."""
    found = looks_like_mulaw(ids.astype(np.uint8))
    if found is not None and found != mulaw:
        remedy = (
            "give --mulaw if wav2utf8 --mulaw wrote it" if found else "leave --mulaw out if wav2utf8 wrote it without"
        )
        log(f"the text looks like {'mu-law' if found else 'linear samples'}: {remedy}.")


def check_no_sample_flags(options: Namespace, given: set[str]) -> None:
    """Raise InputError if a flag is given that needs linear sound, unless it only disables what does."""
    disabled = SAMPLES["torch-rnn"]
    if foreign := sorted(name for name in given & disabled.keys() if getattr(options, name) != disabled[name]):
        raise InputError(f"--{foreign[0]} is for linear sound, and the data are text or mu-law: leave it out.")


def sound_options(options: Namespace, given: set[str], old_rate: int | None, old_mulaw: bool = False) -> SoundOptions:
    """Return how to read recordings: as given, and otherwise as for the network of --init-from, if there is one."""
    return SoundOptions(
        rate=old_rate if old_rate and "rate" not in given else options.rate,
        channel=options.channel,
        remove_dc=options.remove_dc,
        normalize=options.normalize,
        normalize_over=options.normalize_over,
        gain_db=options.gain,
        mulaw=options.mulaw or old_mulaw,
    )


def check_same_network(options: Namespace, given: set[str], config: Any, fields: Mapping[str, str]) -> None:
    """Raise InputError if an option that is given contradicts the network of --init-from.

    ``fields`` are those of the network's configuration by the names of their options; `TRAINING_FIELDS` may differ.
    """
    for name, field in fields.items():
        if name in TRAINING_FIELDS:
            continue
        value = getattr(config, field)
        if name in given and getattr(options, name) != value:
            flag = "--" + name.replace("_", "-")
            has = f"{flag} {value}" if value is not None else f"--cell {config.cell}, which has no {flag}"
            raise InputError(f"{options.init_from} has {has}: leave {flag} out.")
