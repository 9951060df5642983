"""Opens pages of runs in a real browser, as wide as a phone: python tests/browser.py PAGE...

It needs Chromium; `.ci/run` brings it. A page fails where a script ends in an error, a picture does not load, the page
is wider than the screen, or a table is not sorted by a click. The page lies in a frame of a page that looks into it.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LOOK = """
<!DOCTYPE html><meta charset="utf-8"><pre id="told"></pre><iframe src="PAGE" width="375" height="800"></iframe>
<script>
const frame = document.querySelector("iframe"), errors = [];
frame.contentWindow.addEventListener("error", event => errors.push(String(event.message)));
frame.addEventListener("load", () => {
  const page = frame.contentDocument, heads = [...page.querySelectorAll("table.wide thead th")];
  heads.forEach(head => head.click());
  const unsorted = [...page.querySelectorAll("table.wide")].filter(
    table => !table.querySelector("th[aria-sort=ascending]")).length;
  const told = {
    title: page.title, errors, unsorted, tables: page.querySelectorAll("table").length,
    pictures: page.images.length,
    missing: [...page.images].filter(image => !image.naturalWidth).map(image => image.src),
    width: page.documentElement.scrollWidth, screen: frame.contentWindow.innerWidth,
  };
  document.getElementById("told").textContent = JSON.stringify(told);
});
</script>
"""


def look(browser: str, page: Path) -> dict:
    """What the browser says of a page."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(LOOK.replace("PAGE", page.resolve().as_uri()), encoding="utf-8")
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--allow-file-access-from-files", f"--user-data-dir={folder}/profile", "--virtual-time-budget=10000",
        ]  # fmt: skip
        command = [browser, *flags, "--dump-dom", frame.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = re.search(r'<pre id="told">(.+?)</pre>', dom, re.DOTALL)
    if told is None:
        raise SystemExit(f"{page}: the browser did not load it")
    return json.loads(html.unescape(told[1]))


def main(pages: list[str]) -> None:
    """Ends with a line for each page, and with an error where one is wrong."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None or not pages:
        raise SystemExit("usage: python tests/browser.py PAGE...; it needs Chromium on the path")
    wrong = 0
    for page in pages:
        told = look(browser, Path(page))
        faults = told["errors"] or told["missing"] or told["unsorted"] or not told["title"]
        good = not faults and told["width"] <= told["screen"]
        wrong += not good
        print("right" if good else "WRONG", page, json.dumps(told))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main(sys.argv[1:])
