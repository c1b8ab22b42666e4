"""The page, used in a browser as a visitor uses it: an example, an upload, words, a view left out, bad files."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smile_pipe.cli.main import app
from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.app.stage import server_command, streamlit_environment
from smile_pipe.pipeline.synth.stage import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# WebGL without a graphics card.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 60_000


@pytest.fixture(scope="module")
def address(run_dir: Path, tmp_path_factory) -> Iterator[str]:
    """Where the command serves the page."""
    with serving(run_dir, tmp_path_factory.mktemp("app") / "log") as (port, _):
        yield f"http://localhost:{port}"


@contextmanager
def serving(run_dir: Path, log: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """The command, once it serves its page: the port, and its process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = "from smile_pipe.cli.main import main; main()"
    arguments = [sys.executable, "-c", code, "app", str(run_dir), "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(arguments, stdout=file, stderr=file, start_new_session=True)
        try:
            _wait_for(port, server, log)
            yield port, server
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)


def _wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)
    pytest.fail(f"the page is not served: {log.read_text()}")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address) -> Iterator:
    """The page as a visitor finds it; no error of its scripts is passed by."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.get_by_text("Send a scan").wait_for()
    yield page
    page.close()
    assert wrong == []


@pytest.fixture(scope="module")
def smile(tmp_path_factory) -> Path:
    """Four frames of a smile."""
    out = tmp_path_factory.mktemp("sequences") / "faces"
    synth(SynthConfig(out=out, kind="sequences", subjects=1, frames=15, texture_size=64))
    return out / "F001" / "Happy"


def send(page, name: str, content: bytes) -> None:
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "model/obj", "buffer": content})


def shares(page, number: int = 0) -> dict[str, float]:
    """What the bars of a chart say."""
    chart = page.locator(".js-plotly-plot:has(.barlayer)").nth(number)
    chart.locator(".bartext").first.wait_for()
    names = chart.locator(".ytick").all_text_contents()
    values = [float(re.sub(r"[^0-9.]", "", text)) for text in chart.locator(".bartext").all_text_contents()]
    return dict(zip(names, values, strict=True))


def test_an_example_is_a_click_away_and_shows_the_face_its_views_and_what_they_say(page):
    page.get_by_role("button", name="a surprise").click()
    page.get_by_text("In your own words").wait_for()
    page.locator(".js-plotly-plot canvas").first.wait_for()
    found = shares(page)
    assert found.keys() >= {"anger", "surprise", "neutral"} and sum(found.values()) == pytest.approx(100, abs=1)
    assert page.locator("[data-testid=stImage] img").count() == 3
    assert page.get_by_role("button", name="a sad face").is_visible()


def test_words_are_scored_at_once_and_a_view_can_be_left_out(page):
    page.get_by_role("button", name="a smile", exact=True).click()
    page.get_by_role("textbox").fill("a polite smile\nan <i>angry</i> face")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Together with the run's expressions").wait_for()
    words = shares(page, 1)
    assert {"a polite smile", "anger"} <= words.keys() and sum(words.values()) == pytest.approx(100, abs=1)
    for view in ("front", "left", "right"):
        page.get_by_text(view, exact=True).click()
    page.get_by_text("Every view is left out").wait_for()
    page.get_by_text("left", exact=True).click()
    page.get_by_text("In your own words").wait_for()
    assert sum(shares(page).values()) == pytest.approx(100, abs=1)


def test_typed_names_of_expressions_are_scored_once_and_what_is_left_out_is_told(page):
    page.get_by_role("button", name="a smile", exact=True).click()
    page.get_by_role("textbox").fill("surprise\nSU\na polite smile")
    page.keyboard.press("Control+Enter")
    page.get_by_text("scored anyway").wait_for()
    words = shares(page, 1)
    assert {"a polite smile", "surprise"} <= words.keys() and "SU" not in words
    assert len(words) == 8 and sum(words.values()) == pytest.approx(100, abs=1)
    page.get_by_role("textbox").fill("\n".join(f"description {number}" for number in range(14)))
    page.keyboard.press("Control+Enter")
    page.get_by_text("Of 14 descriptions the first 12 are scored.").wait_for()


def test_a_zipped_sequence_is_stepped_through_over_time(page, smile):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(smile.iterdir())[:8]:
            archive.write(path, f"smile/{path.name}")
    send(page, "smile.zip", buffer.getvalue())
    page.get_by_text("Over time").wait_for()
    lines = page.locator(".js-plotly-plot:has(.scatterlayer) .scatterlayer .trace")
    lines.first.wait_for()
    assert lines.count() == 7
    before = page.locator("[data-testid=stImage] img").first.get_attribute("src")
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('[data-testid=stImage] img').getAttribute('src') !== before", arg=before
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.obj", b"f 1 2 3\n", "a face scan needs both"),
        ("face.zip", b"no zip", "The zip is damaged"),
    ],
)
def test_a_bad_file_is_answered_with_a_sentence(page, name, content, said):
    send(page, name, content)
    alert = page.locator("[data-testid=stAlert]").filter(has_text=said)
    alert.wait_for()
    assert "Traceback" not in page.content() and "/tmp" not in alert.inner_text()
    # The page goes on.
    page.get_by_role("button", name="a smile", exact=True).click()
    page.get_by_text("In your own words").wait_for()


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_text("Send a scan").wait_for()
    page.locator("[data-testid=stExpandSidebarButton]").click()
    page.get_by_role("button", name="a surprise").click()
    page.get_by_text("In your own words").wait_for(state="attached")
    page.locator(".bartext").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_the_server_tells_nobody_and_takes_no_more_than_it_may():
    config = AppConfig(run=Path("run"), max_upload_mb=7, port=9000)
    options = streamlit_environment(config)
    assert options["STREAMLIT_BROWSER_GATHER_USAGE_STATS"] == "false"
    assert (options["STREAMLIT_SERVER_MAX_UPLOAD_SIZE"], options["STREAMLIT_SERVER_ADDRESS"]) == ("7", "localhost")
    assert AppConfig.model_validate_json(server_command(config)[-1]) == config


def test_without_a_run_there_is_no_page(tmp_path):
    result = CliRunner().invoke(app, ["app", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "no such run" in result.stderr


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 0, []), (signal.SIGTERM, 128 + signal.SIGTERM, ["stopped"])]
)
def test_ctrl_c_is_how_a_page_ends_and_no_failure(run_dir, tmp_path, number, code, said):
    with serving(run_dir, tmp_path / "log") as (_, server):
        # To the page's process as well, as a terminal sends it.
        os.killpg(server.pid, number)
        assert server.wait(20) == code
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line.startswith(("stopped", "failed"))] == said


def test_a_port_that_is_taken_is_told(run_dir):
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["app", str(run_dir), "--port", str(port)])
    assert result.exit_code == 1 and f"is port {port} taken?" in result.stderr
