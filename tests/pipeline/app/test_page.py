"""The page in a real browser: an example, an upload, descriptions, a view left out, bad files."""

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

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from smile_pipe.cli.main import app
from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.app.stage import PAGE, server_command, streamlit_environment
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# WebGL without a graphics card.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def address(run_dir: Path, tmp_path_factory) -> Iterator[str]:
    """The address of the served page."""
    with serving(run_dir, tmp_path_factory.mktemp("app") / "log") as (port, _):
        yield f"http://localhost:{port}"


@contextmanager
def serving(run_dir: Path, log: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """Run the command; the block gets its port and its process once the page is served."""
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
    """The page as a visitor first sees it; script errors fail the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(TIMEOUT_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_text("Send a scan").wait_for()
    yield page
    page.close()
    assert errors == []


@pytest.fixture(scope="module")
def smile(tmp_path_factory) -> Path:
    """Four frames of a smile."""
    out = tmp_path_factory.mktemp("sequences") / "faces"
    synth(SynthConfig(out=out, kind="sequences", subjects=1, frames=15, texture_size=64))
    return out / "F001" / "Happy"


def send(page, name: str, content: bytes) -> None:
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "model/obj", "buffer": content})


def bar_values(page, number: int = 0) -> dict[str, float]:
    """The probabilities in percent of a bar chart, by name."""
    chart = page.locator(".js-plotly-plot:has(.barlayer)").nth(number)
    chart.locator(".bartext").first.wait_for()
    names = chart.locator(".ytick").all_text_contents()
    values = [float(re.sub(r"[^0-9.]", "", text)) for text in chart.locator(".bartext").all_text_contents()]
    return dict(zip(names, values, strict=True))


def test_an_example_shows_the_face_its_views_and_the_predictions(page):
    page.get_by_role("button", name="a surprise").click()
    page.get_by_text("In your own words").wait_for()
    page.locator(".js-plotly-plot canvas").first.wait_for()
    found = bar_values(page)
    assert found.keys() >= {"anger", "surprise", "neutral"} and sum(found.values()) == pytest.approx(100, abs=1)
    assert page.locator("[data-testid=stImage] img").count() == 3
    assert page.get_by_role("button", name="a sad face").is_visible()


def test_descriptions_are_scored_and_a_view_can_be_left_out(page):
    page.get_by_role("button", name="a smile", exact=True).click()
    page.get_by_label("In your own words").fill("a polite smile\nan <i>angry</i> face")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Together with the run's expressions").wait_for()
    words = bar_values(page, 1)
    assert {"a polite smile", "anger"} <= words.keys() and sum(words.values()) == pytest.approx(100, abs=1)
    for view in ("front", "left", "right"):
        page.get_by_text(view, exact=True).click()
    page.get_by_text("Every view is left out").wait_for()
    page.get_by_text("left", exact=True).click()
    page.get_by_text("In your own words").wait_for()
    assert sum(bar_values(page).values()) == pytest.approx(100, abs=1)


def test_known_expressions_are_scored_once_with_a_note(page):
    page.get_by_role("button", name="a smile", exact=True).click()
    page.get_by_label("In your own words").fill("surprise\nSU\na polite smile")
    page.keyboard.press("Control+Enter")
    page.get_by_text("scored anyway").wait_for()
    words = bar_values(page, 1)
    assert {"a polite smile", "surprise"} <= words.keys() and "SU" not in words
    assert len(words) == 8 and sum(words.values()) == pytest.approx(100, abs=1)
    page.get_by_label("In your own words").fill("\n".join(f"description {number}" for number in range(14)))
    page.keyboard.press("Control+Enter")
    page.get_by_text("Of 14 descriptions the first 12 are scored.").wait_for()


def test_a_zipped_sequence_has_a_slider_and_a_chart_over_time(page, smile):
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
def test_a_bad_upload_shows_a_message(page, name, content, said):
    send(page, name, content)
    alert = page.locator("[data-testid=stAlert]").filter(has_text=said)
    alert.wait_for()
    assert "Traceback" not in page.content() and "/tmp" not in alert.inner_text()
    # The page still works.
    page.get_by_role("button", name="a smile", exact=True).click()
    page.get_by_text("In your own words").wait_for()


def test_the_page_fits_the_width_of_a_phone(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    page.get_by_text("Send a scan").wait_for()
    page.locator("[data-testid=stExpandSidebarButton]").click()
    page.get_by_role("button", name="a surprise").click()
    page.get_by_text("In your own words").wait_for(state="attached")
    page.locator(".bartext").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_server_options_disable_statistics_and_limit_uploads():
    config = AppConfig(run=Path("run"), max_upload_mb=7, port=9000)
    options = streamlit_environment(config)
    assert options["STREAMLIT_BROWSER_GATHER_USAGE_STATS"] == "false"
    assert (options["STREAMLIT_SERVER_MAX_UPLOAD_SIZE"], options["STREAMLIT_SERVER_ADDRESS"]) == ("7", "localhost")
    assert AppConfig.model_validate_json(server_command(config)[-1]) == config


def test_a_missing_run_is_rejected(tmp_path):
    result = CliRunner().invoke(app, ["app", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "no such run" in result.stderr


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 0, []), (signal.SIGTERM, 128 + signal.SIGTERM, ["stopped"])]
)
def test_signals_stop_the_page_with_their_exit_codes(run_dir, tmp_path, number, code, said):
    with serving(run_dir, tmp_path / "log") as (_, server):
        # To the page's process as well, as a terminal sends it.
        os.killpg(server.pid, number)
        assert server.wait(20) == code
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line.startswith(("stopped", "failed"))] == said


def test_axes_that_exclude_each_other_are_refused(run_dir):
    result = CliRunner().invoke(app, ["app", str(run_dir), "--up", "z", "--axes", "x,z,-y"])
    assert result.exit_code == 2 and "--axes x,z,-y: use either --up z or this" in " ".join(result.stderr.split())


def test_a_port_in_use_is_a_clear_error(run_dir):
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["app", str(run_dir), "--port", str(port)])
    assert result.exit_code == 1 and f"is port {port} taken?" in result.stderr


def test_the_script_of_the_page_runs_without_a_browser(run_dir, monkeypatch):
    # Examples are upright and in millimetres, whatever uploads are.
    config = AppConfig(run=run_dir, axes="-x,y,z", units="m")
    monkeypatch.setattr(sys, "argv", ["page.py", config.model_dump_json()])
    loaded, load = [], Predictor.load
    monkeypatch.setattr(Predictor, "load", lambda *args, **named: loaded.append(load(*args, **named)) or loaded[0])
    # Streamlit puts the script here; processes that later tests spawn would run it as theirs.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert (loaded[0].settings.axes, loaded[0].settings.units) == ("-x,y,z", "m")
    assert [info.value for info in page.info] == ["Send a scan, or click on one of the examples."]
    next(button for button in page.button if button.label == "a smile").click().run()
    assert not page.exception and not page.error and len(page.checkbox) == 3
    R = np.array(page.session_state["analysis"].sample.record.frame.R)
    assert np.linalg.det(R) > 0
    page.text_area[0].set_value("a polite smile\nanger").run()
    assert not page.exception
    assert any("scored anyway" in caption.value for caption in page.caption)
    next(button for button in page.button if button.label == "a smile over time").click().run()
    assert not page.exception and len(page.slider) == 1
