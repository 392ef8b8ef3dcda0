"""The documentation agrees with the code."""

from __future__ import annotations

import configparser
import pkgutil
import re
import sys
from pathlib import Path

import pytest

from charrnn.models.config import CELLS
from charrnn.storage import run_dir
from charrnn.storage.csv_log import LOG_COLUMNS, VAL_COLUMNS
from charrnn.training.recipe import Settings

ROOT = Path(__file__).parent.parent
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("data/*.md")])
}
COMMAND = r"(?:wav2utf8|utf82wav|bin2utf8|utf82bin|charrnn-\w+)"


@pytest.fixture(scope="module")
def make_flags():
    """The tool that writes flags.md."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        import make_flags

        return make_flags


@pytest.fixture(scope="module")
def help_texts(make_flags):
    """The help of each command by its name."""
    return {name: make_flags.help_of(command) for name, command in make_flags.COMMANDS.items()}


@pytest.fixture(scope="module")
def expected(make_flags, help_texts):
    """The section of flags.md that each command should have."""
    return {name: make_flags.section(name, text) for name, text in help_texts.items()}


@pytest.fixture(scope="module")
def sections():
    """The sections of flags.md by command."""
    parts = re.split(r"^## (.*)$", PAGES["docs/reference/flags.md"], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def flags_in(text):
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", text))


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    return re.findall(r"\]\(([^)\s]+)\)", PAGES[page])


def test_every_installed_command_is_in_the_readme_and_in_flags_md(help_texts, sections):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = config["options.entry_points"]["console_scripts"].strip().splitlines()
    installed = {line.split("=")[0].strip() for line in scripts}
    assert installed == set(help_texts) == set(sections)
    assert [name for name in installed if name not in PAGES["README.md"]] == []


def test_flags_md_has_exactly_the_flags_of_each_command(expected, sections):
    for name, section in sections.items():
        assert flags_in(section) == flags_in(expected[name]), name


def test_flags_md_leaves_out_only_the_flags_of_all_commands_and_the_examples(help_texts, expected):
    for name, text in help_texts.items():
        left_out = flags_in(text.partition("Examples:")[0]) - flags_in(expected[name])
        assert left_out <= {"-h", "--help", "--version", "-q", "--quiet"}, name


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse prints options with values in another form")
def test_flags_md_is_up_to_date(expected, sections):
    for name, section in sections.items():
        assert section.split() == expected[name].partition("\n")[2].split(), f"{name}: run make docs"


def test_every_flag_that_a_page_shows_in_use_exists(help_texts):
    flags = {name: flags_in(text) for name, text in help_texts.items()}
    for page, text in PAGES.items():
        for line in re.findall(rf"(?:^ {{4,}}|`)({COMMAND} [^`\n]*)", text, re.M):
            for part in re.split(r"\||&&|;|>", line.split("#")[0]):
                name, *arguments = part.split() or [""]
                used = {argument for argument in arguments if re.match(r"--?[a-z]", argument)}
                assert used <= flags.get(name, used), f"{page}: {part}"


def test_every_flag_that_a_page_names_belongs_to_some_command(help_texts):
    flags = set().union(*(flags_in(text) for text in help_texts.values()))
    for page, text in PAGES.items():
        named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", text))
        assert named <= flags | {"--max-restarts"}, f"{page}: {named - flags}"  # of torchrun


def test_every_link_to_a_file_leads_to_one():
    for page in PAGES:
        for target in links(page):
            path = target.partition("#")[0]
            if "://" not in target and path:
                assert ((ROOT / page).parent / path).exists(), f"{page}: {target}"


def test_every_link_to_a_heading_leads_to_one():
    for page in PAGES:
        for target in links(page):
            path, _, anchor = target.partition("#")
            if "://" not in target and anchor:
                other = ((ROOT / page).parent / path).resolve() if path else ROOT / page
                assert anchor in anchors(other.read_text(encoding="utf-8")), f"{page}: {target}"


def test_every_page_can_be_reached_from_the_readme():
    reached, pending = set(), ["README.md"]
    while pending:
        page = pending.pop()
        reached.add(page)
        for target in links(page):
            path = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            if path.is_relative_to(ROOT):
                names = [p.relative_to(ROOT).as_posix() for p in (path.glob("*.md") if path.is_dir() else [path])]
                pending += [name for name in names if name in PAGES and name not in reached]
    assert set(PAGES) - reached <= {"data/README.md"}


def test_every_module_and_test_that_a_page_names_exists():
    for page, text in PAGES.items():
        for name in re.findall(r"`?((?:bytecodec|charrnn|tests|docs)/[\w/.-]+\.(?:py|c|md))", text):
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_every_picture_is_on_a_page():
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert any(f"pictures/{picture.name})" in text for text in PAGES.values()), picture.name


def test_every_page_that_the_code_names_exists():
    for path in [*ROOT.glob("charrnn/**/*.py"), *ROOT.glob("bytecodec/*.py"), *ROOT.glob("tools/**/*.py")]:
        for name in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path}: {name}"


def test_the_tour_of_the_code_names_what_is_in_each_file():
    rows = re.findall(r"^\|[^|]*\| `(\w[\w/]+\.py)`[^|]*\| (.*) \|$", PAGES["docs/explanation/architecture.md"], re.M)
    assert len(rows) > 9
    for path, cell in rows:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", cell):
            for part in name.split("."):
                assert re.search(rf"^\s*(?:def|class) {part}\b", source, re.M), f"{path}: {name}"


def test_the_architecture_page_describes_every_package():
    packages = [path.parent.name for path in (ROOT / "charrnn").glob("*/__init__.py")]
    assert len(packages) > 8
    for package in packages:
        assert f"`charrnn.{package}`" in PAGES["docs/explanation/architecture.md"], package


def test_make_targets_that_a_page_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page, text in PAGES.items():
        assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.M)) <= targets, page


def test_formats_md_has_the_columns_of_the_logs_and_the_files_of_a_run():
    text = PAGES["docs/reference/formats.md"]
    assert ",".join(LOG_COLUMNS) in text
    assert ",".join(VAL_COLUMNS) in text
    run = run_dir.Run(Path("r"))
    files = (run.config_file, run.log_file, run.val_file, run.best_file, run.resume_file, run.corpus_file)
    for path in (*files, run.free_running_file):
        assert f"`{path.name}`" in text


def test_models_md_describes_every_cell_and_both_recipes():
    text = PAGES["docs/explanation/models.md"]
    assert [cell for cell in CELLS if f"`{cell}`" not in text and f"--cell {cell}`" not in text] == []
    assert "| torch-rnn | modern (default) |" in text
    assert f"| batch | {Settings.batch_size} rows x {Settings.seq_length} steps |" in text


def test_configuration_md_lists_every_environment_variable_of_the_project():
    for path in [*ROOT.glob("charrnn/**/*.py"), *ROOT.glob("bytecodec/**/*.py")]:
        for name in re.findall(r"\"(CHARRNN_[A-Z_]+)\"", path.read_text(encoding="utf-8")):
            assert f"`{name}`" in PAGES["docs/reference/configuration.md"], f"{path}: {name}"


def test_the_example_of_the_python_interface_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/reference/api.md"], re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/reference/api.md", "exec"), {})
    out = capsys.readouterr().out
    assert "bits per sample" in out
    assert "audible: " in out


def test_the_example_of_onnx_runs_as_it_stands(tmp_path, monkeypatch, symbols_run):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from charrnn.commands.convert import charrnn_convert

    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/guide/import-and-export.md"], re.S)
    monkeypatch.chdir(tmp_path)
    assert charrnn_convert([str(symbols_run), "voice.onnx"]) == 0
    names = {}
    exec(compile(example, "docs/guide/import-and-export.md", "exec"), names)
    assert names["logits"].shape == (1, 256)
    assert names["meta"]["encoding"] == "linear"
    assert any(array.any() for array in names["state"].values())


def test_public_names_in_api_md_exist():
    names = re.findall(r"`((?:bytecodec|charrnn)\.[\w.]+)(?:`|\()", PAGES["docs/reference/api.md"])
    assert len(names) > 15
    for name in names:
        pkgutil.resolve_name(name)


def test_no_page_is_longer_than_its_limit():
    limits = {"README.md": 120, "CONTRIBUTING.md": 90, "docs/benchmarks.md": 150, "docs/reference/formats.md": 190}
    limits |= {page: 90 for page in PAGES if page.startswith("docs/guide/")}
    assert {page: PAGES[page].count("\n") for page, limit in limits.items() if PAGES[page].count("\n") > limit} == {}


def test_the_readme_shows_both_make_targets_and_the_four_commands_on_its_first_screen():
    screen = "\n".join(PAGES["README.md"].splitlines()[:36])
    for line in ("make demo", "make test", "wav2utf8 in.wav out.txt", "charrnn-train out.txt", "charrnn-sample --temp"):
        assert f"    {line}" in screen, line
