"""Make the pictures of docs/pictures: plots, report, listening page and a network's page in a browser, a video frame.

    python tools/screenshots.py voice.wav       trains three small networks on a recording first (ten minutes or more)
    python tools/screenshots.py --runs RUN ...  uses existing runs

Needs playwright, chromium (its path in CHROMIUM, or on the PATH) and ffmpeg.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from charrnn.commands.convert import charrnn_convert
from charrnn.commands.plot import charrnn_plot
from charrnn.commands.report import charrnn_report
from charrnn.commands.train import charrnn_train
from charrnn.commands.video import charrnn_video
from charrnn.server import app as listen_app
from charrnn.storage.run_dir import find_voice

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "pictures"
NETWORKS = {
    "lstm-1x32": "--rnn-size 32 --layers 1",
    "gru-1x96": "--cell gru --rnn-size 96 --layers 1",
    "lstm-2x128": "--rnn-size 128 --layers 2 --wordvec-size 64",
}
SETTINGS = "--max-iterations 1200 --checkpoint-every 200 --sample-seconds 4 --temperature 1 --quiet"
VOICE = "kathleen"
MAX_WIDTH = 960  # pixels, the width of a page of the docs
FLAGS = ["--no-sandbox", "--disable-background-networking", "--autoplay-policy=no-user-gesture-required"]
PLAY_SECONDS = 9  # of sound that a page plays before its picture


def main() -> None:
    """Train networks unless runs are given, then make every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording = "recording of which networks are trained (default: data/voice.wav)"
    parser.add_argument("recording", nargs="?", type=Path, default=ROOT / "data" / "voice.wav", help=recording)
    parser.add_argument("--runs", nargs="+", type=Path, help="runs with samples (default: three new ones)")
    args = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("there is no chromium: install it, or give its path in the environment variable CHROMIUM.")
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = args.runs or train(args.recording, folder)
        plots(runs, folder)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            report(browser, runs, folder)
            live(browser, folder)
            voice_page(browser, folder)
            browser.close()
        video(runs, folder)


def train(recording: Path, folder: Path) -> list[Path]:
    """Train three networks on a recording."""
    runs = [folder / name for name in NETWORKS]
    for run, flags in zip(runs, NETWORKS.values(), strict=True):
        print(f"training {run.name}", flush=True)
        command = [str(recording), "--run-dir", str(run), *flags.split(), *SETTINGS.split()]
        assert charrnn_train(command) == 0
    return runs


def plots(runs: list[Path], folder: Path) -> None:
    """Make plots of the losses of all runs, and of the newest sample of the last one."""
    names = [str(run) for run in runs]
    losses, sound = folder / "losses.png", folder / "sound.png"
    size = ["--width", str(MAX_WIDTH), "--height", "540"]
    assert charrnn_plot([*names, "-o", str(losses), "--unit", "bits", "--log-x", "--log-y", *size]) == 0
    newest = str(max((runs[-1] / "samples").glob("*.wav")))
    assert charrnn_plot([newest, "-o", str(sound), "--theme", "dark", *size]) == 0
    keep(losses)
    keep(sound)


def report(browser: Browser, runs: list[Path], folder: Path) -> None:
    """Make pictures of the report in light and dark, wide and narrow, and of its players."""
    page_file = folder / "report.html"
    assert charrnn_report([*map(str, runs), "-o", str(page_file)]) == 0
    for name, is_wide, is_dark, element in (
        ("report", True, False, "header"),
        ("report-sounds", True, True, "#listen"),
        ("report-narrow", False, True, "header"),
        ("report-narrow-sounds", False, False, "#listen"),
    ):
        page = open_page(browser, page_file.as_uri(), is_wide, is_dark)
        page.wait_for_selector("#plot .main-svg")
        page.locator(element).evaluate("(one) => one.scrollIntoView()")
        page.wait_for_timeout(500)
        close_page(page, folder / f"{name}.png")


def live(browser: Browser, folder: Path) -> None:
    """Make pictures of the listening page while it plays the bundled voice, wide in light and narrow in dark."""
    with listen_app.bind("127.0.0.1", 0) as socket:
        server = listen_app.server(listen_app.application([find_voice(VOICE)]))
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        for name, is_wide in (("listen", True), ("listen-narrow", False)):
            page = open_page(browser, f"http://127.0.0.1:{socket.getsockname()[1]}/", is_wide, not is_wide)
            play(page)
            close_page(page, folder / f"{name}.png")
        server.should_exit = True
        thread.join()


def voice_page(browser: Browser, folder: Path) -> None:
    """Make pictures of the self-contained page of the bundled voice, wide in dark and narrow in light."""
    page_file = folder / "voice.html"
    assert charrnn_convert([VOICE, str(page_file), "--title", VOICE.capitalize(), "-q"]) == 0
    for name, is_wide in (("page", True), ("page-narrow", False)):
        page = open_page(browser, page_file.as_uri(), is_wide, is_wide)
        play(page)
        close_page(page, folder / f"{name}.png")


def play(page: Page) -> None:
    """Start playback; return after `PLAY_SECONDS` of sound."""
    page.locator("#play:not([disabled])").click()
    page.wait_for_function(
        f"() => parseFloat(document.querySelector('#played').textContent) > {PLAY_SECONDS}",
        polling=100,
        timeout=120_000,
    )


def open_page(browser: Browser, address: str, is_wide: bool, is_dark: bool) -> Page:
    """Open a page on a wide or a narrow screen, in light or dark."""
    width, height = (1280, 900) if is_wide else (390, 844)
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if is_dark else "light")
    page.goto(address)
    return page


def close_page(page: Page, shot: Path) -> None:
    """Keep a picture of a page, and close it."""
    page.screenshot(path=shot)
    page.close()
    keep(shot)


def video(runs: list[Path], folder: Path) -> None:
    """Make a picture of a clip of the video."""
    made = folder / "video.mp4"
    assert charrnn_video([*map(str, runs), "-o", str(made), "-q"]) == 0
    probe = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(made)]
    length = float(subprocess.run(probe, capture_output=True, check=True).stdout)
    shot = folder / "film.png"
    seek = f"{0.87 * length:.2f}"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-ss", seek, "-i", str(made), "-frames:v", "1", str(shot)], check=True
    )
    keep(shot)


def keep(picture: Path) -> None:
    """Save a picture in docs/pictures, at most as wide as a page."""
    with Image.open(picture) as read:
        image = read.convert("RGB")
        if image.width > MAX_WIDTH:
            image = image.resize((MAX_WIDTH, round(image.height * MAX_WIDTH / image.width)), Image.Resampling.LANCZOS)
        image.save(OUT / f"{picture.stem}.webp", quality=82, method=6)
    print(OUT / f"{picture.stem}.webp", flush=True)


if __name__ == "__main__":
    main()
