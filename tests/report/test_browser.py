"""The report's page in a browser: sorting, filtering, keys, widths and colours."""

import pytest
from report.browser import browser
from report.kept_runs import Photographs, kept_run

from wsol_ext.report.page import write_report

SHOWN = """[...document.querySelectorAll(".gallery > :not([hidden])")].map(
    (card) => [card.dataset.kind, card.dataset.class, ...card.dataset.iou.split(" ").map(Number)])"""
STATE = (
    """[...document.querySelectorAll("[aria-pressed=true]")].map((button) => button.dataset.kind)"""
)
# Of a chart, in pixels of the screen.
TEXT_HEIGHT = """(() => {
  const chart = document.querySelector(".chart");
  const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
  return scale * parseFloat(getComputedStyle(chart.querySelector("text")).fontSize);
})()"""
# Of every text the least contrast by WCAG 2, its element's colour on the nearest ground that has one.
CONTRAST = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
      .reduce((sum, each, k) => sum + each * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return parts(colour)[3] === 0 && element.parentElement ? ground(element.parentElement) : colour;
  };
  const found = [...document.querySelectorAll("body *")].filter((element) =>
      [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && element.checkVisibility());
  return found.map((element) => {
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const [low, high] = [light(colour), light(ground(element))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 80)];
  }).sort((a, b) => a[0] - b[0])[0];
})()"""


@pytest.fixture(scope="module")
def chromium():
    try:
        with browser() as started:
            yield started
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of a run and one of two, with names that are long."""
    folder = tmp_path_factory.mktemp("pages")
    names = [f"{k}{'<b>é漢 ' * 60}"[:300] for k in range(40)]
    class_names = ["W" * 100, *(f"bird {k}" for k in range(4))]
    options = {"classes": 5, "names": names, "class_names": class_names}
    runs = [kept_run(folder / name, 40, seed=k, **options) for k, name in enumerate("ab")]
    (folder / "config.yaml").write_text("root: " + "a/" * 150 + "\n")
    (folder / "metrics.csv").write_text("loss,accuracy\n2,0.1\n1,0.5\n")
    runs[0].origin["run"] = str(folder)
    dataset = Photographs(40, **options)
    write_report(folder / "one.html", runs[:1], dataset, made_by={"command": "wsol " + "x" * 300})
    write_report(folder / "two.html", runs, dataset)
    return folder


def test_gallery_sorts_and_filters_by_the_address_and_by_keys(chromium, pages):
    chromium.open(pages / "one.html")
    everything = chromium.value(SHOWN)
    assert len(everything) == 40
    ious = [card[2] for card in everything]
    assert ious == sorted(ious, reverse=True)
    kind = everything[0][0]

    chromium.open(pages / "one.html", f"#sort=iou-up&kind={kind}&class=1")
    shown = chromium.value(SHOWN)
    wanted = [card for card in reversed(everything) if card[:2] == [kind, "1"]]
    assert shown == wanted
    assert chromium.value(STATE) == [kind]
    assert chromium.value("document.querySelector('output').value") == f"{len(wanted)} of 40 shown"
    assert chromium.value("document.querySelector('[name=sort]').value") == "iou-up"

    # By the keyboard: the first button shows all kinds, and the address says so.
    chromium.value("document.querySelector('.kinds button').focus()")
    chromium.press("Enter")
    assert "kind" not in chromium.value("location.hash")
    assert len(chromium.value(SHOWN)) == sum(card[1] == "1" for card in everything)
    # What the address asks for in vain is passed over.
    chromium.open(pages / "one.html", "#sort=age&kind=odd&class=99")
    assert chromium.value(SHOWN) == everything


def test_a_picture_is_enlarged_by_a_key_and_put_back(chromium, pages):
    chromium.open(pages / "one.html")
    chromium.value("document.querySelector('.gallery .frame').focus()")
    chromium.press("Enter")
    assert chromium.value("document.querySelector('dialog').open")
    assert chromium.value("document.querySelectorAll('dialog .card').length") == 1
    chromium.press("Escape")
    assert not chromium.value("document.querySelector('dialog').open")


def test_two_runs_are_sorted_by_their_difference(chromium, pages):
    chromium.open(pages / "two.html", "#sort=gap-up")
    gaps = [second - first for *_, first, second in chromium.value(SHOWN)]
    assert gaps == sorted(gaps)
    chromium.open(pages / "two.html", "#sort=iou1&kind=second")
    shown = chromium.value(SHOWN)
    assert {kind for kind, *_ in shown} == {"second"}
    assert [card[3] for card in shown] == sorted((card[3] for card in shown), reverse=True)


@pytest.mark.parametrize("name", ["one.html", "two.html"])
def test_pages_fit_a_phone_and_are_read_by_day_and_by_night(chromium, pages, name):
    chromium.complaints.clear()
    chromium.requests.clear()
    for dark in (False, True):
        chromium.open(pages / name, width=420, dark=dark)
        assert chromium.value("document.scrollingElement.scrollWidth") == 420
        assert chromium.value(TEXT_HEIGHT) > 10
        least, element = chromium.value(CONTRAST)
        assert least >= 4.5, element
    assert chromium.complaints == []
    assert {address.partition(":")[0] for address in chromium.requests} <= {"file", "data", "about"}


def test_without_scripts_all_pictures_are_shown_sorted(chromium, pages):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(pages / "one.html", "#sort=iou-up")
        shown = chromium.value(SHOWN)
        assert [card[2] for card in shown] == sorted((card[2] for card in shown), reverse=True)
        assert len(shown) == 40
        assert not chromium.value("document.querySelector('.controls').checkVisibility()")
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
