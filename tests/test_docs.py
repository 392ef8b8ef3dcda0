"""The documents say what is true of the code beside them."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from charrnn.storage import run_dir
from charrnn.storage.csv_log import LOG_COLUMNS, VAL_COLUMNS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("data/*.md")])


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands():
    """The commands by name, and how tools/make_flags.py asks them for help."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        import make_flags

        yield make_flags


def flags_in(text):
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", text))


def test_every_command_that_is_installed_is_documented(commands):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = config["options.entry_points"]["console_scripts"].strip().splitlines()
    installed = {line.split("=")[0].strip() for line in scripts}
    assert installed == set(commands.COMMANDS)
    assert set(re.findall(r"^## (.*)$", read("docs/flags.md"), re.M)) == installed
    assert all(name in read("README.md") for name in installed)


def test_flags_md_has_exactly_the_flags_of_each_command(commands):
    sections = re.split(r"^## (.*)$", read("docs/flags.md"), flags=re.M)
    for name, section in zip(sections[1::2], sections[2::2], strict=True):
        assert flags_in(section) == flags_in(commands.help_of(commands.COMMANDS[name])), name


def test_flags_md_has_the_defaults_of_each_command(commands):
    sections = re.split(r"^## (.*)$", read("docs/flags.md"), flags=re.M)
    for name, section in zip(sections[1::2], sections[2::2], strict=True):
        words = re.findall(r"\(default: [^)]*\)", " ".join(commands.help_of(commands.COMMANDS[name]).split()))
        assert re.findall(r"\(default: [^)]*\)", " ".join(section.split())) == words, name


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_flag_that_a_page_shows_in_use_exists(commands, page):
    known = {name: flags_in(commands.help_of(command)) for name, command in commands.COMMANDS.items()}
    for line in re.findall(
        r"(?:^ {4,}|`)((?:wav2utf8|utf82wav|bin2utf8|utf82bin|charrnn-\w+) [^`\n]*)", read(page), re.M
    ):
        for part in re.split(r"\||&&|;|>", line.split("#")[0]):
            words = part.split()
            if words and words[0] in known:
                used = {word for word in words[1:] if re.match(r"--?[a-z]", word)}
                assert used <= known[words[0]], f"{page}: {part}"


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", read(page)):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_make_targets_that_the_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", read(page), re.M)) <= targets, page


def test_formats_md_has_the_columns_of_the_logs_and_the_files_of_a_run():
    text = read("docs/formats.md")
    assert ",".join(LOG_COLUMNS) in "".join(text.split())
    assert ",".join(VAL_COLUMNS) in "".join(text.split())
    run = run_dir.Run(Path("r"))
    for path in (run.config_file, run.log_file, run.val_file, run.best_file, run.resume_file, run.corpus_file):
        assert f"`{path.name}`" in text


def test_the_example_of_api_md_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", read("docs/api.md"), re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/api.md", "exec"), {})
    out = capsys.readouterr().out
    assert "bits a sample" in out
    assert "audible: " in out


def test_contributing_names_every_module():
    text = read("CONTRIBUTING.md")
    for path in (ROOT / "charrnn").glob("*.py"):
        if path.name != "__init__.py":
            assert path.name in text, path.name
