"""The page of a run shows what is there, and nothing of it as markup."""

from html.parser import HTMLParser

import pytest

from jaxnas import report

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


class Page(HTMLParser):
    """Gathers the texts, the pictures and the elements of a page, and sees that elements are closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.images, self.tags, self.open = [], [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data.strip())


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
    assert not {"script", "b", "digits", "cpu", "link"} & page.tags
    assert "http" not in text  # Nothing is fetched.
    assert sorted(path.name for path in (run / "report").iterdir()) == ["a.png", "b c.png", "index.html"]


def test_the_page_shows_each_picture_in_turn(run):
    pictures = [("First <i>", "b c.png", "One & two"), ('Second "x"', "a.png", "Three")]
    page = Page(report.write(run, RESULT, pictures).read_text(encoding="utf-8"))
    assert [image["src"] for image in page.images] == ["b%20c.png", "a.png"]
    assert [image["alt"] for image in page.images] == ["First <i>", 'Second "x"']
    assert {"First <i>", "One & two", "Three"} <= set(page.texts)
    assert "i" not in page.tags


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
