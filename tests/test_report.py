"""The page of a run shows what is there, and nothing of it as markup."""

import re

import pytest
from pages import Page, check_links

from jaxnas import livepage, report
from jaxnas.runfolder import open_run

RESULT = {
    "test_accuracy": 0.9751,
    "test_interval": [0.9531, 0.9871],
    "valid_accuracy": None,
    "params": 3349342,
    "macs": 540123456,
    "seed": 7,
    "dataset": "<digits>",
    "genotype": {"space": "darts", "normal": [["<script>alert(1)</script>", 0]]},
    "notation": "Genotype(normal=[('<b>', 0)])",
    "baselines": {
        "hand & made": {
            "test_accuracy": 0.91,
            "test_interval": [0.9, 0.92],
            "valid_accuracy": 0.93,
            "params": 61706,
            "macs": 1,
        },
        "random 0": {
            "test_accuracy": 0.95,
            "test_interval": None,
            "valid_accuracy": None,
            "params": 1234567,
            "macs": 2,
        },
    },
    "timing": {"search_seconds": 131.2, "train": 7300, "derive": 0.25},
    "versions": {"jax": "0.10.2", "devices": "1 × <cpu>"},
    "command": 'python -m experiments.darts --name "a<b>"',
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "report").mkdir()
    for name in ("a.png", "b c.png"):
        (tmp_path / "report" / name).write_bytes(b"png")
    return tmp_path


def test_the_page_shows_the_result_as_text(run):
    path = report.write(run, RESULT, [])
    assert path == run / "report" / "index.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for wanted in (
        "97.51% (95.31% – 98.71%)", "none was held out", "3,349,342", "540,123,456", "7", "<digits>",
        "Genotype(normal=[('<b>', 0)])", "hand & made", "91.00% (90.00% – 92.00%)", "93.00%", "1,234,567",
        "2 min 11 s", "2 h 01 min", "0.25 s", "search", "0.10.2", "1 × <cpu>", RESULT["command"],
    ):  # fmt: skip
        assert wanted in page.texts
    assert any("<script>alert(1)</script>" in data for data in page.texts)
    assert not {"b", "digits", "cpu", "link"} & set(page.tags)
    assert page.tags["script"] == 1  # ours, which sorts tables
    assert "http" not in text  # Nothing is fetched.
    assert sorted(path.name for path in (run / "report").iterdir()) == ["a.png", "b c.png", "index.html"]


def test_the_page_shows_each_picture_in_turn(run):
    pictures = [("First <i>", "b c.png", "One & two"), ('Second "x"', "a.png", "Three")]
    page = Page(report.write(run, RESULT, pictures).read_text(encoding="utf-8"))
    assert [image["src"] for image in page.images] == ["b%20c.png", "a.png"]
    assert [image["alt"] for image in page.images] == ["First <i>", 'Second "x"']
    assert {"First <i>", "One & two", "Three"} <= set(page.texts)
    assert "i" not in page.tags
    assert page.links == ["b%20c.png", "a.png"]
    (run / "report" / "a.svg").write_bytes(b"svg")
    assert check_links(report.write(run, RESULT, pictures), {"img": 2}).links == ["b%20c.png", "a.svg"]


@pytest.mark.parametrize("relative", ["missing.png", "../outside.png", "", "/etc/hostname"])
def test_a_picture_that_is_not_in_the_report_is_refused_and_the_old_page_stays(run, relative):
    (run / "outside.png").write_bytes(b"png")
    before = report.write(run, RESULT, []).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no picture"):
        report.write(run, RESULT, [("First", "a.png", ""), ("Second", relative, "")])
    assert (run / "report" / "index.html").read_text(encoding="utf-8") == before


def test_what_a_result_does_not_have_is_left_out(tmp_path):
    page = Page(report.write(tmp_path, {"test_accuracy": 0.5}, []).read_text(encoding="utf-8"))
    assert "50.00%" in page.texts
    assert not {"Beside other networks", "Found genotype", "Pictures", "Time", "Versions", "Command"} & set(page.texts)


def test_a_page_fits_a_phone():
    """No width but in relative units or as a limit, tables scroll in themselves, and the viewport is the device's."""
    head = "abcdefghij"
    page = report.page("title", report._table(head, [tuple(head)]))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in Page(page).meta
    assert re.search(r'<div class="scroll"><table', page)
    assert ".scroll { overflow-x: auto; }" in page
    widths = re.findall(r"[{;\s](?:min-)?width:\s*([^;}]+)[;}]", page)
    assert set(widths) <= {"100%"}


def test_a_running_page_shows_the_curves_and_reloads_until_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(livepage, "EVERY", 1e9)
    path = tmp_path / "run" / "report" / "index.html"
    with open_run(tmp_path / "run", {}, {}) as run:
        stage = run.stage("search <i>")
        for step in range(1, 1001):
            if step == 1000:
                monkeypatch.setattr(livepage, "EVERY", 0.0)
            stage.log("epoch", step, {"epoch": 1, "loss_<b>": 1000.0 - step, "bad": float(step)})
        page = check_links(path, {"polyline": 2, "table": 0, "i": 0, "b": 0})
        assert any(meta.get("http-equiv") == "refresh" for meta in page.meta)
        assert {"search <i>", "loss <b>: 0", "999", "step 1", "1000"} <= set(page.texts)
        points = re.search(r'points="([^"]*)"', path.read_text())[1].split()
        assert 100 < len(points) <= 402
        heights = [float(point.split(",")[1]) for point in points]
        assert heights == sorted(heights)  # a loss that falls is drawn downward, which is to greater y
    page = check_links(path, {"polyline": 2})
    assert not any("http-equiv" in meta for meta in page.meta)
    assert any(text.startswith("stopped") for text in page.texts)


def test_the_report_of_a_finished_run_stays_when_the_run_is_closed(tmp_path):
    with open_run(tmp_path / "run", {}, {}) as run:
        run.stage("train").log("epoch", 1, {"loss": 1.0})
        report.write(run.path, RESULT, [])
        run.finish({"test_accuracy": 0.5})
    assert "97.51%" in (tmp_path / "run" / "report" / "index.html").read_text()
