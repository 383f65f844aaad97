import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import made_up
import pytest

from rdd_deploy.benchmark.compare import merged
from rdd_deploy.benchmark.records import Benchmark
from rdd_deploy.benchmark.report import plot
from rdd_deploy.benchmark.report.gallery import DisagreementExample, Picture
from rdd_deploy.benchmark.report.write import render, write_report
from rdd_deploy.benchmark.session import judged
from rdd_deploy.utils.text import shown

PALETTE = ((0, 0, 255), (0, 255, 0), (255, 0, 0))
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}
EXAMPLES = [
    DisagreementExample(
        "frame_07",
        12.5,
        (Picture("frame", "", b"\xff\xd8x"), Picture("int8", "90.0 % of its pixels right", b"\xff\xd8y")),
    )
]


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what a reader or a browser would care for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def full() -> Benchmark:
    rows = [
        made_up.row("float", 30, 70), made_up.row("int8", 10, 69, drop=1), made_up.row("slow", 40, 60, drop=10),
        made_up.failed("broken", "no <driver> & no hope"), made_up.row("gpu", 2, 70, device="cuda:0"),
    ]  # fmt: skip
    other = made_up.benchmark(made_up.row("earlier", 33, 70))
    return judged(merged(made_up.benchmark(*rows, warnings=["a & b"]), [(Path("old.json"), other)]), 15, 1.5)


def test_the_page_is_balanced_and_loads_nothing() -> None:
    text = render(full(), EXAMPLES, PALETTE)
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("data:image", "").replace("url(#plot", ""))
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "$" not in text


def test_it_can_be_read_without_seeing_or_colours() -> None:
    page = Page(render(full(), EXAMPLES, PALETTE))
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.all("img"))
    assert all("scope" in heading for heading in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {"light dark"} == {meta["content"] for meta in page.all("meta") if meta.get("name") == "color-scheme"}
    assert page.texts.count("dominated") == 2  # in words, beside the grey
    assert page.texts.count("chosen") == 2  # one a device
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    named = [name for _, attributes in page.tags for name in (attributes.get("aria-labelledby") or "").split()]
    assert set(named) <= set(identifiers)


def test_all_that_was_found_is_on_it() -> None:
    text = " ".join(Page(render(full(), EXAMPLES, PALETTE)).texts)
    for words in (
        "Take int8", "On cpu", "On cuda:0", "failed: no <driver> & no hope", "a & b", "from old.json", "Toy CPU", "performance", "onnxruntime 1.2.3", "frame_07",
        "Frames on which the bundles disagree most", "never occurs", "5 interleaved rounds",
    ):  # fmt: skip
        assert words in text, words


def test_names_from_outside_stay_text() -> None:
    evil = '<script>alert("x")</script>'
    hurt = made_up.benchmark(made_up.row(evil, 3, 50, run=evil), made_up.failed(evil + "2", evil), warnings=[evil])
    page = Page(render(judged(hurt, 1, None), [DisagreementExample(evil, 1.0, (Picture(evil, evil, b"x"),))], PALETTE))
    assert not page.all("script")
    assert evil in page.texts


@pytest.mark.parametrize("rows", [[made_up.failed("a", "why")], [made_up.row("a", 1, 50)]])
def test_one_row_or_none_that_ran(tmp_path: Path, rows: list) -> None:
    write_report(tmp_path, judged(made_up.benchmark(*rows), None, None), [], PALETTE)
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmark.json", "pareto.png", "report.html"]


def test_one_plot_a_device(tmp_path: Path) -> None:
    write_report(tmp_path, full(), [], PALETTE)
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["pareto-cuda-0.png", "pareto.png"]
    assert cv2.imread(str(tmp_path / "pareto.png")).shape[1] > 1000


def test_no_bundle_fits() -> None:
    text = " ".join(Page(render(judged(made_up.benchmark(made_up.row("float", 30, 70)), 15, None), [], PALETTE)).texts)
    assert "No bundle fits" in text
    assert "the nearest is float with 30.00 ms" in text


@pytest.mark.parametrize(
    ("rows", "words"), [(2, "all that was measured agrees on every pixel"), (1, "No pixel of any frame is wrong")]
)
def test_nothing_to_show_is_said(rows: int, words: str) -> None:
    same = [made_up.row(f"row{number}", 1 + number, 50) for number in range(rows)]
    assert words in " ".join(Page(render(made_up.benchmark(*same), [], PALETTE)).texts)


def test_the_page_is_as_wide_as_a_phone_and_wide_parts_scroll_by_themselves() -> None:
    """By the style sheet: what is wider than 390 pixels stands in a block that scrolls, with a bar and shadows that
    show it.
    """
    text = render(full(), EXAMPLES, PALETTE)
    page = Page(text)
    blocks = [attributes for _, attributes in page.tags if attributes.get("class") == "wide"]
    tables, plots = text.count("<table"), text.count("<svg")
    assert len(blocks) == tables + plots == 5
    assert len(re.findall(r'class="wide"[^>]*><(?:table|svg)', text)) == tables + plots
    assert all(block["tabindex"] == "0" and block["role"] == "region" and block["aria-label"] for block in blocks), (
        "by keyboard, too"
    )
    style = text.partition("<style>")[2].partition("</style>")[0]
    wide = re.search(r"\.wide \{(.*?)\}", style, re.DOTALL)
    assert wide is not None
    for part in (
        "overflow-x: auto",
        "max-width: 100%",
        "scrollbar-color",
        "background-attachment: local, local, scroll, scroll",
    ):
        assert part in wide[1]
    assert ".wide::-webkit-scrollbar" in style
    assert re.search(r"main \{[^}]*overflow-wrap: anywhere", style), "a long name or path breaks"
    assert not re.search(
        r"[^-]width: (4|5|6|7|8|9)\d\dpx",
        style.replace(".plot { min-width: 620px; }", "").replace("max-width: 640px", ""),
    )
    for columns in re.findall(r"grid-template-columns: ([^;]+);", style):
        assert "1fr" not in columns.replace("minmax(0, 1fr)", ""), "a plain 1fr is as wide as its longest word"


def test_without_matplotlib_all_but_the_plot_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "available", lambda: False)
    assert write_report(tmp_path, full(), EXAMPLES, PALETTE) == ["report.html", "benchmark.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmark.json", "report.html"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.all("svg")
    said = "the plot needs the package 'matplotlib', which isn't installed: pip install 'rdd-deploy[report]'"
    assert any(text.startswith(said) for text in page.texts)
    assert "int8" in " ".join(page.texts)


@pytest.mark.parametrize("evil", ["$x_1$", "</svg><script>1</script>", "]]>", "\x1b[31m", "#ffffff"])
def test_names_in_the_plot_stay_text(evil: str) -> None:
    page = Page(render(judged(made_up.benchmark(made_up.row(evil, 3, 50)), None, None), [], PALETTE))
    assert not page.all("script")
    assert page.texts.count(shown(evil)) >= 2  # in the plot and in the table
