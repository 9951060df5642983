"""Pages as tests read them: their texts, elements and links, and that nothing that they need is missing."""

from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

VOID = ("meta", "img")


class Page(HTMLParser):
    """Gathers texts, pictures, links and elements of a page, and sees that elements are closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.images, self.links, self.tags, self.open, self.meta = [], [], [], Counter(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        elif tag == "meta":
            self.meta.append(attributes)
        elif tag == "a":
            self.links.append(attributes["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script") and data.strip():
            self.texts.append(data.strip())


def check_links(path, counts):
    """The page of a file: every link and picture of it is there, inside of its folder. counts: of some elements."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for relative in [*page.links, *(image["src"] for image in page.images)]:
        assert (path.parent / unquote(relative)).is_file(), relative
    assert {tag: page.tags[tag] for tag in counts} == counts
    assert "http://" not in text
    assert "https://" not in text
    return page
