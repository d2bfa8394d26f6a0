"""The page as a reader meets it, in a headless Chromium: sorting, filtering, links, a phone's width, no network."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.bench_records import record, refused, spread

from nfkern.bench.commands import page_of
from nfkern.bench.core import records as storage

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

RESULTS = Path(__file__).parents[3] / "bench" / "results"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver on the path: see CONTRIBUTING.md"
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of two files of recorded times and of all studies, and of a made row with everything."""
    folder = tmp_path_factory.mktemp("page")
    medians = {"eager": 4e-3, "nfkern": 1e-3, "nfkern_frozen": 9e-4, "zuko": 5e-4, "gemm": 2e-4}
    made = [record(name, spread(seconds), batch=7) for name, seconds in medians.items()]
    made[0] = replace(made[0], peak_bytes=12_340_000)
    made[3] = replace(made[3], parameters=12_345)
    made.insert(3, replace(refused("eager_compile", "bad <x>"), batch=7))
    storage.write(folder / "made.json", made)
    found = [path for pattern in ("scaling-*.json", "libraries-*.json", "*/*.json") for path in RESULTS.glob(pattern)]
    page = folder / "page.html"
    page.write_text(page_of([folder / "made.json", *found]), encoding="utf-8")
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


def texts(page, selector):
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent.trim())", selector
    )


def shown(page, selector):
    """Elements that take up room."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(each => each.getClientRects().length)"
    return page.execute_script(script, selector)


def test_it_opens_without_complaints_or_requests(page, address):
    page.execute_script(OPEN_ALL)
    assert page.get_log("browser") == []
    assert page.title == "nfkern benchmarks"
    messages = "\n".join(entry["message"] for entry in page.get_log("performance"))
    # The log of requests has the page itself, so it is the right one.
    assert '"Network.requestWillBeSent"' in messages
    assert address in messages
    assert not [each for each in ("http://", "https://", "ws://") if f'"url":"{each}' in messages]
    # A request would be seen.
    page.execute_script("new Image().src = 'https://example.invalid/x.png'")
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


def test_a_row_stands_in_every_table_that_it_belongs_to(page):
    anchor = "inverse-ogbench-7-threads_1"
    overview = texts(page, f"tr[data-row='{anchor}'] td")
    assert overview == [
        *("inverse", "ogbench", "7", "1", "ahead", "4.44", "900 us nfkern_frozen", "4.00 ms eager", "", "200 us gemm"),
        *("4.50", "made.json"),
    ]
    heads = ["variant", "median", "p10", "p90", "p99", "p99.9", "ratio", "first call", "calls", "memory"]
    row = f"details[id='{anchor}']"
    assert texts(page, f"{row} th") == heads
    lines = [texts(page, f"{row} tbody tr:nth-child({number}) td") for number in range(1, 7)]
    frozen = ["nfkern_frozen", "900 us", "882 us", "918 us", "954 us", "", "4.44", "500 ms", "100", ""]
    assert (lines[0][-1], lines[2]) == ("12.3 MB", frozen)
    assert lines[3] == ["eager_compile", "refused: bad <x>"]
    assert lines[4][0] == "zuko 12,345 parameters, same size, not the same function"
    assert texts(page, f"{row} tr.best td:first-child, {row} td.bar.own") == ["1.00 ms", "nfkern_frozen", "900 us"]
    assert texts(page, f"{row} p:last-child") == ["No suite has this row any more."]
    assert texts(page, "details code")[0].startswith("nfkern bench run --suite scaling --match ")
    title = "inverse, ogbench, batch 7, 1 thread (made.json)"
    assert [texts(page, f"tr:has(a[href='#{anchor}']) td:nth-child({number})")[1:] for number in (1, 2, 3, 4)] == [
        [title, title],
        ["eager_compile", "900 us nfkern_frozen"],
        ["bad <x>", "zuko"],
        ["500 us"],
    ]


@pytest.mark.parametrize(("index", "name"), [(0, "work"), (5, "ratio")])
def test_a_click_on_a_head_sorts_by_the_raw_value_and_a_second_one_turns_it_round(page, index, name):
    def column():
        return page.execute_script(
            "return [...document.querySelector('table.filtered').tBodies[0].rows].map(row => row.cells[arguments[0]])"
            ".map(cell => cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value))",
            index,
        )

    before, head = column(), page.find_elements(By.CSS_SELECTOR, "table.filtered th")[index]
    assert (head.text, head.get_attribute("aria-sort")) == (name, "none")
    for direction in ("ascending", "descending"):
        head.find_element(By.TAG_NAME, "button").click()
        found = column()
        filled = [value for value in found if value != ""]
        assert filled == sorted(filled, reverse=direction == "descending")
        # What has no value comes last either way, and nothing is lost.
        assert found == [*filled, *[""] * (len(found) - len(filled))]
        assert sorted(map(str, found)) == sorted(map(str, before))
        # One column of one table is the sorted one.
        assert [each.text for each in page.find_elements(By.CSS_SELECTOR, f"th[aria-sort={direction}]")] == [name]


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
    page.execute_script(OPEN_ALL)
    assert page.execute_script("return innerWidth") == width
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    # Text of pictures stays large enough to be read where they shrink.
    heights = page.execute_script(
        "return [...document.querySelectorAll('svg.chart text')].map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10
    # Verdict and times are in sight without scrolling sideways.
    for cell in page.find_elements(By.CSS_SELECTOR, "table.filtered tbody tr:first-child td")[:8]:
        assert cell.rect["width"] > 0
        assert cell.rect["x"] + cell.rect["width"] <= width


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
        assert browser.find_elements(By.CSS_SELECTOR, "button, input") == []
        text = browser.find_element(By.TAG_NAME, "body").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    order = ("nfkern at its fastest is ahead", "times as fast as the best peer", "Overview", "Where nfkern loses")
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    for words in ("inverse against batch", "Quality beside speed", "nfkern_frozen"):
        assert words in text
