import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import made_up
import pytest

from rdd_deploy.benchmark.compare import merged
from rdd_deploy.benchmark.records import Benchmark
from rdd_deploy.benchmark.report.gallery import DisagreementExample, Picture
from rdd_deploy.benchmark.report.write import render, write_report
from rdd_deploy.benchmark.session import judged

PALETTE = ((0, 0, 255), (0, 255, 0), (255, 0, 0))
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}
EXHIBITS = [
    DisagreementExample("frame_07", 12.5, (Picture("frame", "", b"\xff\xd8x"), Picture("int8", "90.0 % of its pixels right", b"\xff\xd8y")))
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
    other = made_up.benchmark(made_up.row("elsewhere", 3, 71), machine=made_up.machine(cpu_model="Other CPU"))
    return judged(merged(made_up.benchmark(*rows, warnings=["a & b"]), [(Path("old.json"), other)]), 15, 1.5)


def test_the_page_is_balanced_and_loads_nothing() -> None:
    text = render(full(), EXHIBITS, PALETTE)
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("data:image", ""))
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "$" not in text


def test_it_can_be_read_without_seeing_or_colours() -> None:
    page = Page(render(full(), EXHIBITS, PALETTE))
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.all("img"))
    assert all("scope" in heading for heading in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {"light dark"} == {meta["content"] for meta in page.all("meta") if meta.get("name") == "color-scheme"}
    assert page.texts.count("dominated") == 1  # in words, beside the grey
    assert page.texts.count("chosen") == 2  # one a device
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    named = [name for _, attributes in page.tags for name in (attributes.get("aria-labelledby") or "").split()]
    assert set(named) <= set(identifiers)


def test_all_that_was_found_is_on_it() -> None:
    text = " ".join(Page(render(full(), EXHIBITS, PALETTE)).texts)
    for words in (
        "Take int8", "On cpu", "On cuda:0", "failed: no <driver> & no hope", "a & b", "Measured otherwise, not comparable",
        "cpu_model: Other CPU against Toy CPU", "Toy CPU", "performance", "onnxruntime 1.2.3", "frame_07",
        "Frames on which the bundles disagree most", "never occurs", "5 interleaved rounds",
    ):  # fmt: skip
        assert words in text, words
    assert "elsewhere" in text.partition("Measured otherwise, not comparable")[2]
    assert "elsewhere" not in text.partition("Measured otherwise, not comparable")[0]


def test_rows_of_another_machine_stand_by_device_and_unmarked() -> None:
    rows = [made_up.row("int8", 10, 69, drop=1), made_up.row("slow", 40, 60, drop=10)]
    far = made_up.machine(cpu_model="Other CPU", gpu="Other GPU")
    other = made_up.benchmark(*rows, made_up.row("gpu-float", 2, 70, device="cuda:0"), machine=far)
    text = render(judged(merged(made_up.benchmark(*rows), [(Path("old.json"), other)]), 15, None), [], PALETTE)
    apart = text.partition('id="apart"')[2].partition("</section>")[0]
    on_cpu, _, on_gpu = apart.partition("As measured there, on cuda:0: Other GPU")
    assert "As measured there, on cpu: Other CPU" in on_cpu
    assert ("gpu-float" in on_cpu, "gpu-float" in on_gpu) == (False, True)
    assert "chosen" not in apart
    assert "dominated" not in apart


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


@pytest.mark.parametrize(("rows", "words"), [(2, "all that was measured agrees on every pixel"), (1, "No pixel of any frame is wrong")])
def test_nothing_to_show_is_said(rows: int, words: str) -> None:
    same = [made_up.row(f"row{number}", 1 + number, 50) for number in range(rows)]
    assert words in " ".join(Page(render(made_up.benchmark(*same), [], PALETTE)).texts)
