"""Stored documents are validated field by field, and the message names the field and the value."""

import math
from dataclasses import fields

import pytest

from bytecodec.errors import InputError
from charrnn.data.recordings import SoundOptions
from charrnn.storage import schema
from charrnn.storage.checkpoint_format import CheckpointMeta
from charrnn.storage.schema import OPTIONAL, Field, validate
from charrnn.training.recipe import RECIPES, Settings

CONFIG = {
    "inputs": ["a.wav"],
    "symbols": 1000,
    "rate": 11025,
    "encoding": "linear",
    "sound": SoundOptions().to_json(),
    "model": {},
    "training": {},
    "vocab": {},
    "val_frac": 0.1,
    "test_frac": 0,
    "threads": 2,
}


def test_missing_fields_get_their_defaults_and_unknown_ones_are_kept():
    table = {
        "a": Field(int),
        "b": Field(float, default=1.5),
        "c": Field(dict, default={}),
        "d": Field(str, default=OPTIONAL),
    }
    found = validate({"a": 3, "more": None}, table, "x.json")
    assert found == {"a": 3, "more": None, "b": 1.5, "c": {}}
    found["c"]["changed"] = True
    assert validate({"a": 3}, table, "x.json")["c"] == {}


def test_a_required_field_may_be_missing_only_from_a_partial_document():
    with pytest.raises(InputError, match=r"^x\.json: a is missing\.$"):
        validate({}, {"a": Field(int)}, "x.json")
    assert validate({}, {"a": Field(int)}, "x.json", partial=True) == {}


def test_a_document_that_is_not_an_object_is_rejected():
    for document, shown in ((None, "null"), (7, "7"), ("text", "'text'"), ([], r"\[\]")):
        with pytest.raises(InputError, match=rf"^x\.json: .*JSON object, not {shown}\.$"):
            validate(document, {}, "x.json")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (Field(int, 1, 8), [0, 9, True, 1.0, "1", None, [], 10**400]),
        (Field(float, 0, below=1), [-0.1, 1, math.nan, math.inf, False, "x"]),
        (Field(float, above=0, nullable=True), [0, -1]),
        (Field(float), [10**400, True, {}]),
        (Field(str, choices=("a", "b")), ["c", [], 1, None]),
        (Field(bool), [0, 1, "true"]),
        (Field(dict), [[], "a"]),
        (Field(list, items=Field(str)), ["a", ["a", 1], [None]]),
        (Field(dict, items=Field(float)), [{"flac": "x"}]),
        (Field(dict, fields={"a": Field(int)}), [{}, {"a": "x"}, {"a": 1, "b": 2}]),
    ],
)
def test_an_impossible_value_is_rejected_by_name(field, values):
    for value in values:
        with pytest.raises(InputError, match="name"):
            validate({"name": value}, {"name": field}, "x.json")


def test_possible_values_are_kept_as_they_are():
    table = {"i": Field(int, 1, 8), "f": Field(float, 0), "n": Field(float, nullable=True), "loss": Field(float)}
    document = {"i": 8, "f": 3, "n": None, "loss": math.inf}
    assert validate(document, table, "x.json") == document


def test_the_message_names_the_field_the_value_and_what_is_possible():
    with pytest.raises(InputError) as caught:
        validate({"threads": 0}, {"threads": Field(int, 1, 1024)}, "x.json")
    assert str(caught.value) == "x.json: threads is 0, and must be a whole number at least 1 and at most 1,024."
    with pytest.raises(InputError) as caught:
        validate({"a": "\x1b" + "y" * 100_000}, {"a": Field(int)}, "x.json")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_config_of_an_older_version_gets_the_defaults_of_newer_settings():
    found = validate({name: value for name, value in CONFIG.items() if name != "sound"}, schema.CONFIG, "config.json")
    assert (found["sound"], found["processes"], found["tensorboard"], found["yardsticks"]) == (None, 1, False, {})
    assert found["samples"] == {"seconds": 0.0, "temperatures": []}


def test_a_changed_config_is_rejected_by_the_name_of_the_setting():
    validate(CONFIG, schema.CONFIG, "config.json")
    changes = {"threads": -3, "rate": "x", "encoding": "alaw", "val_frac": 1, "inputs": [3], "tensorboard": 1}
    changes |= {"yardsticks": {"flac": "x"}, "samples": {"seconds": 1}}
    sounds = [{"channel": 0}, {"gain_db": math.nan}, {"normalize_over": "all"}, {"remove_dc": 1}, {"other": 1}]
    samples = [{"seconds": math.inf, "temperatures": []}, {"seconds": 1, "temperatures": [-1]}]
    for name, value in [*changes.items(), *(("sound", x) for x in sounds), *(("samples", x) for x in samples)]:
        with pytest.raises(InputError, match=name):
            validate(CONFIG | {name: value}, schema.CONFIG, "config.json")


def test_the_tables_name_the_fields_of_the_classes_that_they_describe():
    assert schema.TRAINING.keys() == Settings().to_json().keys()
    assert set(schema.TRAINING["recipe"].choices) == set(RECIPES)
    assert schema.SOUND.keys() == SoundOptions().to_json().keys()
    assert schema.SYMBOLS.keys() == {field.name for field in fields(CheckpointMeta)} - {"path"}
    defaults = {field.name: field.default for field in fields(CheckpointMeta)}
    assert all(field.default == defaults[name] for name, field in schema.SYMBOLS.items())
