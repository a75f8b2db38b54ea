"""The page of a frontier, in a real browser: its numbers against those computed here."""

from __future__ import annotations

import html
import json
import re
from decimal import ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.browser import Shown, browse
from support.frontiers import frontier

from apex.errors import UsageError
from apex.reporting import frontier_page

DATA = frontier(layers=5, width=256)
SMALLEST, LARGEST = DATA["start"]["bytes"], DATA["steps"][-1][2]
MIDDLE = DATA["steps"][len(DATA["steps"]) // 2][2]


class Page(HTMLParser):
    """What a reader finds: texts and values by id, cells of the grid, rows of tables."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.cells: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self._ids: list[tuple[str, str]] = []
        self.feed(dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if found.get("id"):
            self._ids.append((tag, str(found["id"])))
            self.texts[str(found["id"])] = ""
            self.attributes[str(found["id"])] = found
        if found.get("role") == "gridcell" and found.get("title"):
            self.cells.append(str(found["title"]))
        if self._ids and self._ids[-1][0] == "table":
            rows = self.rows.setdefault(self._ids[-1][1], [])
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if self._ids and self._ids[-1][0] == tag:
            self._ids.pop()

    def handle_data(self, data: str) -> None:
        for _, name in self._ids:
            self.texts[name] += data
        if self._ids and self._ids[-1][0] == "table" and self.rows.get(self._ids[-1][1]):
            cells = self.rows[self._ids[-1][1]][-1]
            if cells:
                cells[-1] += data


def expected(data: dict[str, Any], size: int) -> tuple[int, float, list[int]]:
    """Bytes, KL and the types of the largest file of at most this size, else of the smallest."""
    types = list(data["start"]["types"])
    found = data["start"]["bytes"], data["start"]["kl"]
    for tensor, kind, step_bytes, kl in data["steps"]:
        if step_bytes > size:
            break
        types[tensor] = kind
        found = step_bytes, kl
    return *found, types


def written(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "page.html"
    path.write_text(frontier_page(data), encoding="utf-8")
    return path


def opened(folder: Path, data: dict[str, Any], size: int | None = None, **options: Any) -> Page:
    """The page with this size in its address; nothing is reported to the console."""
    fragment = "" if size is None else f"bytes={size}"
    shown = browse(written(folder, data), folder, fragment=fragment, **options)
    assert shown.console == ()
    return Page(shown.dom)


def driven(folder: Path, data: dict[str, Any], script: str, width: int = 800) -> Any:
    """What a script finds, as JSON, when it runs behind those of the page."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", frontier_page(data))
    script = (
        f"<script>document.body.dataset.found = JSON.stringify((() => {{{script}}})())</script>"
    )
    path = folder / "driven.html"
    path.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    shown = browse(path, folder, width=width)
    assert shown.console == ()
    match = re.search(r'data-found="([^"]*)"', shown.dom)
    assert match is not None
    return json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))


@pytest.mark.parametrize("size", [0, SMALLEST, MIDDLE - 1, MIDDLE, LARGEST + 1, 10**400])
def test_what_a_size_gets(tmp_path: Path, size: int) -> None:
    page = opened(tmp_path, DATA, size)
    file_bytes, kl, types = expected(DATA, size)
    assert float(page.attributes["kl"]["value"] or "") == kl
    assert float(page.texts["kl"]) == pytest.approx(kl, rel=5e-3)
    assert int(page.attributes["bytes"]["value"] or "") == file_bytes
    assert page.texts["exact"] == f"{file_bytes:,} bytes"
    assert page.texts["bits"] == fixed(8 * file_bytes / DATA["model"]["weights"], 3)
    assert ("hidden" in page.attributes["limit"]) == (SMALLEST <= size <= LARGEST)

    cells: dict[str, list[int]] = {}
    for number, tensor in enumerate(DATA["tensors"]):
        where = "" if tensor["layer"] is None else f"layer {tensor['layer']}, "
        cells.setdefault(f"{where}{tensor['kind']}", []).append(number)
    assert set(page.cells) == {
        "\n".join(
            (f"{where}: {fixed(bits(numbers, types), 2)} bits per weight", *names(numbers, types))
        )
        for where, numbers in cells.items()
    }
    check_kinds(page, file_bytes, types)
    check_comparison(page, size, kl)


def bits(numbers: list[int], types: list[int]) -> float:
    sizes = sum(DATA["tensors"][number]["bytes"][types[number]] for number in numbers)
    return float(8 * sizes / sum(DATA["tensors"][number]["weights"] for number in numbers))


def names(numbers: list[int], types: list[int]) -> list[str]:
    return [f"{DATA['tensors'][n]['name']}: {DATA['types'][types[n]]}" for n in numbers]


def size_text(size: int) -> str:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    name, unit = next(pair for pair in units if size >= pair[1] or pair[0] == "KiB")
    return f"{fixed(size / unit, 2)} {name}"


def fixed(value: float, digits: int) -> str:
    """As browsers round: a half is rounded up."""
    return str(Decimal(value).quantize(Decimal(10) ** -digits, ROUND_HALF_UP))


def check_kinds(page: Page, file_bytes: int, types: list[int]) -> None:
    """The totals; what is not chosen is what the data says, and all is the file."""
    _, *rows, rest, all_of_it = page.rows["kinds"]
    kinds = list(dict.fromkeys(tensor["kind"] for tensor in DATA["tensors"]))
    assert [row[0] for row in rows] == kinds
    for kind, row in zip(kinds, rows, strict=True):
        numbers = [n for n, tensor in enumerate(DATA["tensors"]) if tensor["kind"] == kind]
        sizes = sum(DATA["tensors"][number]["bytes"][types[number]] for number in numbers)
        assert (row[1], row[3]) == (size_text(sizes), fixed(bits(numbers, types), 3))
    assert rest[1] == size_text(DATA["fixed_bytes"])
    assert all_of_it[:3] == ["file", size_text(file_bytes), "100.0 %"]


def check_comparison(page: Page, size: int, kl: float) -> None:
    fitting = [mark for mark in DATA["marks"] if mark["bytes"] <= size]
    if not fitting:
        assert page.texts["compared"] == "No tier and no file type is that small."
        return
    nearest = min(fitting, key=lambda mark: (-mark["bytes"], mark["kl"]))
    found = re.match(r"The predicted KL is (\S+) times that of (\S+) \(", page.texts["compared"])
    assert found is not None and found[2] == nearest["name"]
    assert float(found[1]) == pytest.approx(kl / nearest["kl"], rel=0.05)


def test_the_numbers_of_every_step_are_those_of_the_data(tmp_path: Path) -> None:
    """At each step and one byte before it, on a frontier of both sizes of unit."""
    script = """return files.flatMap(({ bytes }) => [bytes, bytes - 1]).map((bytes) => {
      choose(bytes);
      return [element("bytes").value, element("kl").value, element("exact").textContent]; });"""
    found = driven(tmp_path, DATA, script)
    sizes = [SMALLEST, *(step[2] for step in DATA["steps"])]
    wanted = [expected(DATA, near)[:2] for size in sizes for near in (size, size - 1)]
    assert [(int(size), float(kl)) for size, kl, _ in found] == wanted
    assert [text for _, _, text in found] == [f"{size:,} bytes" for size, _ in wanted]


def test_what_more_bytes_buy(tmp_path: Path) -> None:
    page = opened(tmp_path, DATA, MIDDLE)
    sentence = r"With up to (\d+) MiB more, predicted KL goes from (\S+) to (\S+), (\d+) % less"
    match = re.match(sentence, page.texts["next"])
    assert match is not None
    assert (LARGEST - SMALLEST) / 20 < int(match[1]) * 2**20 <= (LARGEST - SMALLEST) / 8
    _, kl, before = expected(DATA, MIDDLE)
    _, less, after = expected(DATA, MIDDLE + int(match[1]) * 2**20)
    assert [float(match[2]), float(match[3])] == pytest.approx([kl, less], rel=5e-3)
    changed = [
        (tensor["kind"], tensor["bytes"][after[n]] - tensor["bytes"][before[n]])
        for n, tensor in enumerate(DATA["tensors"])
        if before[n] != after[n]
    ]
    kinds = {kind for kind, _ in changed}
    shown = {row[0]: (row[1], row[2].split()[0]) for row in page.rows["changes"][1:]}
    assert shown == {
        kind: (
            size_text(sum(more for other, more in changed if other == kind)),
            str(sum(other == kind for other, _ in changed)),
        )
        for kind in kinds
    }


def test_controls(tmp_path: Path) -> None:
    """The slider's ends, the number field, the buttons, a mark's button and the arrow keys."""
    script = """
    const seen = () => Number(element("bytes").value), found = {};
    const put = (id, value) => {
      element(id).value = value; fire(id, "input"); fire(id, "change"); };
    const fire = (id, name) => element(id).dispatchEvent(new Event(name, { bubbles: true }));
    put("slider", 0); found.first = seen();
    put("slider", 1000); found.last = [seen(), element("larger").disabled];
    put("size", "20.5"); found.typed = [seen(), location.hash];
    put("size", ""); found.empty = seen();
    put("size", "1e300"); found.huge = [seen(), location.hash]; put("size", "20.5");
    element("larger").click(); found.larger = seen();
    element("smaller").click(); found.smaller = seen();
    document.querySelector("#marks button").click(); found.mark = [chosen, seen()];
    const cells = [...document.querySelectorAll("[role=gridcell][title]")];
    const press = (key) => document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    const where = () => element("detail").textContent.split(":")[0];
    cells.find((cell) => cell.title.startsWith("layer 2, linear attention:")).focus();
    found.cells = [where()];
    for (const key of ["ArrowRight", "ArrowUp", "ArrowLeft"]) {
      press(key); found.cells.push(where()); }
    found.stops = cells.filter((cell) => cell.tabIndex === 0).length;
    return found;"""
    found = driven(tmp_path, DATA, script)
    assert found["first"] == SMALLEST
    assert found["last"] == [LARGEST, True]
    size = int(20.5 * 2**20)
    assert found["typed"] == [expected(DATA, size)[0], f"#bytes={size}"]
    assert found["empty"] == found["smaller"] == expected(DATA, size)[0]
    assert found["huge"] == [LARGEST, f"#bytes={2**53 - 1}"]
    assert found["larger"] == min(s[2] for s in DATA["steps"] if s[2] > size)
    mark = min(DATA["marks"], key=lambda mark: mark["bytes"])["bytes"]
    assert found["mark"] == [mark, expected(DATA, mark)[0]]
    assert found["cells"] == [  # layer 3 has no linear attention: the gap is passed over
        *("layer 2, linear attention", "layer 4, linear attention"),
        *("layer 4, shared experts", "layer 3, shared experts"),
    ]
    assert found["stops"] == 1


@pytest.mark.parametrize("width", [400, 800])
def test_nothing_sticks_out(tmp_path: Path, width: int) -> None:
    """With a real browser's narrowest window emulated in a frame of that width."""
    inner = tmp_path / "inner.html"
    data = frontier(layers=40, width=1024, name="a-model-with-a-long-name-" + 5 * "and-more-")
    script = """<script>const root = document.documentElement;
    parent.postMessage([root.clientWidth, root.scrollWidth,
      document.querySelector("svg").getBoundingClientRect().right,
      document.querySelector("#grid").offsetHeight,
      ...[...document.querySelectorAll(".wide")].filter((e) => !e.querySelector("#grid"))
        .map((e) => e.scrollWidth - e.clientWidth)], "*")</script>"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", frontier_page(data))
    inner.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<script>addEventListener('message', e => document.body.dataset.seen = e.data)</script>"
        f'<iframe src="inner.html" width="{width}" height="800" frameborder="0"></iframe>'
    )
    match = re.search(r'data-seen="([^"]*)"', browse(outer, tmp_path, width=1000).dom)
    assert match is not None
    client, scroll, right, height, *hidden = map(float, match[1].split(","))
    assert width - 20 <= client <= width
    assert scroll <= client and right <= client and height > 200
    assert len(hidden) == 4 and max(hidden) <= 0  # the grid alone may be behind a scrollbar


HOSTILE = (
    '</script><script>document.title = "taken over"</script><!--data--><!--script--><!--'
    '<img src="x" onerror="document.title = \'taken over\'">&amp;"\u2028'
)


def test_hostile_names_are_texts(tmp_path: Path) -> None:
    data = json.loads(json.dumps(DATA))
    data["model"]["name"] = data["marks"][0]["name"] = data["types"][0] = HOSTILE
    data["model"]["architecture"] = data["measured"][0]["name"] = HOSTILE
    for tensor in data["tensors"][:3]:
        tensor["kind"] = tensor["name"] = HOSTILE
    shown: Shown = browse(written(tmp_path, data), tmp_path, fragment=f"bytes={LARGEST}")
    assert shown.console == ()
    page = Page(shown.dom)
    title = re.findall("<title>(.*?)</title>", shown.dom, re.DOTALL)[0]
    assert html.unescape(title) == f"{HOSTILE}: quality at every size"
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert any(row[0] == HOSTILE for row in page.rows["kinds"])
    assert HOSTILE in page.texts["summary"]
    assert any(cell.startswith(HOSTILE) for cell in page.cells)


def test_it_loads_nothing_and_says_what_it_needs() -> None:
    text = frontier_page(DATA)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,"}
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    assert "default-src 'none'" in text
    assert "please allow" in re.findall("<noscript>(.*?)</noscript>", text, re.DOTALL)[0]
    assert not re.search("<!--[a-z]+-->", text)


def test_a_foreign_script_does_not_run(tmp_path: Path) -> None:
    """The page's own policy stops it: the control for the test of hostile names."""
    path = tmp_path / "page.html"
    foreign = '<script>document.title = "taken over"</script></body>'
    path.write_text(frontier_page(DATA).replace("</body>", foreign), encoding="utf-8")
    shown = browse(path, tmp_path)
    assert "<title>taken over" not in shown.dom
    assert any("Content Security Policy" in line for line in shown.console)


def test_a_frontier_of_one_file_without_loss(tmp_path: Path) -> None:
    data = {**DATA, "steps": [], "knees": [], "marks": [], "measured": []}
    data["start"] = {**DATA["start"], "kl": 0.0}
    page = opened(tmp_path, data)
    assert page.texts["kl"] == "0" and int(page.attributes["bytes"]["value"] or "") == SMALLEST
    assert page.texts["next"] == "This is the largest file of the frontier."
    assert "hidden" in page.attributes["marks-section"]


def test_what_is_not_a_frontier() -> None:
    for data, message in (
        ({}, "not a frontier"),
        ({**DATA, "format": "apex evaluation 1"}, "not a frontier"),
        ({**DATA, "version": 2}, "of version 2; this apex reads 1"),
        (
            {k: v for k, v in DATA.items() if k not in ("steps", "marks")},
            "steps, marks are missing",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            frontier_page(data)
