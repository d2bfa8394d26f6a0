"""The page as a reader meets it, in a headless Chromium: sorting, filtering, links, a phone's width, no network."""

import shutil
from pathlib import Path

import pytest

from nfkern.bench.commands import page_of

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

RESULTS = Path(__file__).parents[3] / "bench" / "results"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver on the path: see CONTRIBUTING.md"
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of two files of recorded times and of all studies."""
    page = tmp_path_factory.mktemp("page") / "page.html"
    files = [path for pattern in ("scaling-*.json", "libraries-*.json", "*/*.json") for path in RESULTS.glob(pattern)]
    page.write_text(page_of(files), encoding="utf-8")
    return page.as_uri()


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, address):
    """Opened anew at a desktop's width."""
    resize(browser, 1280)
    browser.get("about:blank")
    for name in ("browser", "performance"):
        browser.get_log(name)
    browser.get(address)
    return browser


def resize(driver, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def column(page, table, index):
    """What each row's cell is sorted by, in the order shown: numbers where there are any."""
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])[0].tBodies[0].rows].map(row => row.cells[arguments[1]])"
        ".map(cell => cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value))",
        table,
        index,
    )


def shown(page, selector):
    """Elements that take up room."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(each => each.getClientRects().length)"
    return page.execute_script(script, selector)


def head(page, index):
    return page.find_elements(By.CSS_SELECTOR, "table.filtered th")[index]


def test_it_opens_without_complaints_or_requests(page, address):
    page.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.get_log("browser") == []
    assert page.title == "nfkern benchmarks"
    messages = "\n".join(entry["message"] for entry in page.get_log("performance"))
    urls = page.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert all(url.startswith("data:") for url in urls)
    # The log of requests has the page itself, so it is the right one.
    assert '"Network.requestWillBeSent"' in messages
    assert address in messages
    assert not [each for each in ("http://", "https://", "ws://") if f'"url":"{each}' in messages]


def test_a_request_would_be_seen(page):
    page.execute_script("new Image().src = 'https://example.invalid/x.png'")
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


@pytest.mark.parametrize(("index", "name"), [(0, "work"), (5, "ratio")])
def test_a_click_on_a_head_sorts_by_the_raw_value_and_a_second_one_turns_it_round(page, index, name):
    before = column(page, "table.filtered", index)
    assert head(page, index).text == name
    assert head(page, index).get_attribute("aria-sort") == "none"
    for direction in ("ascending", "descending"):
        head(page, index).find_element(By.TAG_NAME, "button").click()
        found = column(page, "table.filtered", index)
        shown = [value for value in found if value != ""]
        assert shown == sorted(shown, reverse=direction == "descending")
        # What has no value comes last either way, and nothing is lost.
        assert found == [*shown, *[""] * (len(found) - len(shown))]
        assert sorted(map(str, found)) == sorted(map(str, before))
        assert head(page, index).get_attribute("aria-sort") == direction
    # One column of one table is the sorted one.
    assert len(page.find_elements(By.CSS_SELECTOR, "th[aria-sort=descending]")) == 1
    assert page.find_elements(By.CSS_SELECTOR, "th[aria-sort=ascending]") == []


@pytest.mark.parametrize("title", ["Quality beside speed", "Success beside cost"])
def test_the_studies_tables_are_sorted_by_the_numbers_in_their_words(page, title):
    script = """
    const start = [...document.querySelectorAll("h2")].find(each => each.textContent.startsWith(arguments[0]));
    const heads = [...document.querySelectorAll("table.sortable thead th")].filter(head =>
      start.compareDocumentPosition(head) & Node.DOCUMENT_POSITION_FOLLOWING && head.textContent === "act, 1");
    heads[0].querySelector("button").click();
    return [...heads[0].closest("table").tBodies[0].rows].map(row => row.cells[heads[0].cellIndex].textContent);
    """
    cells = [cell for cell in page.execute_script(script, title) if cell]
    scale = {"us": 1e-6, "ms": 1e-3}
    seconds = [float(number) * scale[unit] for number, unit in map(str.split, cells)]
    assert len({unit for _, unit in map(str.split, cells)}) == 2
    assert seconds == sorted(seconds)


def test_words_filter_the_rows_and_their_details(page):
    everything = len(shown(page, "table.filtered tbody tr"))
    field = page.find_element(By.CSS_SELECTOR, "input[type=search]")
    field.send_keys("causal_inverse batch_1 threads_1 nfkern_frozen")
    lines = shown(page, "table.filtered tbody tr")
    assert 0 < len(lines) < everything
    cells = [[cell.text for cell in line.find_elements(By.TAG_NAME, "td")] for line in lines]
    # A batch of 1 is not one of 16.
    assert {(cell[0], cell[2], cell[3]) for cell in cells} == {("causal_inverse", "1", "1")}
    assert len(shown(page, "#rows ~ details")) == len(lines)
    assert page.find_element(By.TAG_NAME, "output").text == f"{len(lines)} of {everything}"


def test_a_line_leads_to_its_row_and_opens_it(page):
    link = page.find_element(By.CSS_SELECTOR, "table.filtered tbody a")
    row = page.find_element(By.ID, link.get_attribute("href").partition("#")[2])
    assert not row.get_property("open")
    for _ in range(2):
        link.click()
        page.execute_async_script("setTimeout(arguments[0], 50)")
        assert row.get_property("open")
        row.find_element(By.TAG_NAME, "summary").click()
        assert not row.get_property("open")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    resize(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.execute_script("return innerWidth") == width
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    # Text of pictures stays large enough to be read where they shrink.
    heights = page.execute_script(
        "return [...document.querySelectorAll('svg.chart text')].map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10


def test_a_phone_shows_verdict_and_times_without_scrolling(page):
    resize(page, 390)
    for cell in page.find_elements(By.CSS_SELECTOR, "table.filtered tbody tr")[0].find_elements(By.TAG_NAME, "td")[:8]:
        assert cell.rect["width"] > 0
        assert cell.rect["x"] + cell.rect["width"] <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_colour_scheme(page, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    ink, paper = (page.execute_script(script, "body", each) for each in ("color", "background-color"))
    assert page.execute_script(script, "svg.chart text", "fill") == ink != paper
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_scripts_it_is_complete(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(address)
        assert browser.find_elements(By.TAG_NAME, "button") == []
        assert browser.find_elements(By.TAG_NAME, "input") == []
        text = browser.find_element(By.TAG_NAME, "body").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert text.index("nfkern at its fastest is ahead") < text.index("times as fast as the best peer")
    for words in ("Where nfkern loses", "inverse against batch", "Quality beside speed", "nfkern_frozen"):
        assert words in text
