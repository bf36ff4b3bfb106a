"""Drives the page in a browser, as a person would."""

import json
import re
import sys

from playwright.sync_api import expect, sync_playwright

BROWSER, SHOTS, SERVER, EMPTY, FAILING = sys.argv[1:]
IRIS = "#/endpoint/iris"
faults = []  # of the browser's console: a broken policy is told there


def launch(playwright):
    """Starts the browser. A sandbox needs a user other than root, and tests run as any."""
    return playwright.chromium.launch(executable_path=BROWSER, args=[
        "--no-sandbox", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-first-run"])


def open_page(browser, address, **context):
    """Opens an address in a profile of its own."""
    context.setdefault("viewport", {"width": 1360, "height": 900})
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.goto(address)
    return page


def choose(page, label):
    """Chooses a protocol by what stands on its button."""
    page.get_by_text(label, exact=True).click()


def send(page, status="200"):
    """Sends the request and returns the text of the answer."""
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("status")).to_contain_text(status)
    return page.get_by_test_id("answer-body").inner_text()


def test_first_look(browser):
    page = open_page(browser, SERVER)
    expect(page.get_by_test_id("service-item")).to_have_count(10)
    expect(page).to_have_title(re.compile("millrace"))
    expect(page.get_by_test_id("service-title")).to_be_visible()
    expect(page.get_by_test_id("service-count")).to_have_text("10 served")


def test_every_protocol(browser):
    page = open_page(browser, SERVER + "/" + IRIS)
    expect(page.get_by_test_id("inputs")).to_contain_text("petal_width")
    expect(page.get_by_test_id("outputs")).to_contain_text("versicolor")
    for label, path in [("Plain JSON", "/predict/iris"), ("KServe V1", "/v1/models/iris:predict"),
                        ("Open Inference Protocol", "/v2/models/iris/infer"),
                        ("MLflow", "/iris/invocations")]:
        choose(page, label)
        body = json.loads(page.get_by_test_id("body").input_value())
        answer = json.loads(send(page))
        assert answer == {"method": "POST", "path": path, "tenant": "", "body": body}, answer
        expect(page.get_by_test_id("x-millrace-version")).to_have_text("7")
        expect(page.get_by_test_id("x-millrace-route")).to_have_text("canary")
        expect(page.get_by_test_id("time")).to_have_text(re.compile(r"^\d+(\.\d)? ms$"))
        assert path in page.get_by_test_id("curl").inner_text()
    choose(page, "Metadata")
    expect(page.get_by_test_id("body")).to_have_count(0)
    assert json.loads(send(page))["path"] == "/v2/models/iris"


def test_editing(browser):
    page = open_page(browser, SERVER + "/" + IRIS)
    body = page.get_by_test_id("body")
    example = body.input_value()
    body.fill('{"sepal_length": "it\'s"}')
    page.locator("summary").click()
    page.get_by_test_id("headers").fill("X-Tenant: blue")
    curl = page.get_by_test_id("curl")
    expect(curl).to_contain_text("""--data-raw '{"sepal_length":"it'\\''s"}'""")
    expect(curl).to_contain_text("-H 'X-Tenant: blue'")
    body.press("Control+Enter")
    expect(page.get_by_test_id("answer-body")).to_contain_text('"tenant": "blue"')
    expect(page.get_by_test_id("answer-body")).to_contain_text("it's")
    body.fill("{")
    expect(page.get_by_test_id("body-hint")).to_contain_text("Not JSON")
    choose(page, "MLflow")
    choose(page, "Plain JSON")
    assert body.input_value() == "{", "what was typed is gone"
    page.get_by_test_id("reset").click()
    assert body.input_value() == example
    expect(page.get_by_test_id("body-hint")).to_have_text("")


def test_copy(browser):
    page = open_page(browser, SERVER + "/" + IRIS,
                     permissions=["clipboard-read", "clipboard-write"])
    page.get_by_test_id("copy").click()
    expect(page.get_by_test_id("copy")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.get_by_test_id("curl").inner_text() and copied.startswith("curl "), copied


def test_errors_of_the_server(browser):
    page = open_page(browser, SERVER + "/#/model/tips")
    choose(page, "Open Inference Protocol")
    assert "<b>no</b>" in send(page, "400")
    faults[:] = [f for f in faults if "400" not in f]  # browsers log each such answer
    page.route("**/predict/tips", lambda route: route.abort())
    choose(page, "Plain JSON")
    assert "could not be sent" in send(page, "No answer")
    faults[:] = [f for f in faults if "ERR_FAILED" not in f]


def test_values_that_javascript_has_not(browser):
    page = open_page(browser, SERVER + "/#/model/sequence")
    answer = send(page)
    assert answer == '{"id": 9007199254740993, "score": NaN, "text": "a, b: {c}"}', answer


def test_large_inputs(browser):
    page = open_page(browser, SERVER + "/#/model/picture")
    for label in ["Plain JSON", "Open Inference Protocol", "KServe V1", "MLflow"]:
        choose(page, label)
        sent = page.get_by_test_id("body").input_value()
        assert sent.count("0.5") == 3 * 32 * 32, label
        expect(page.get_by_test_id("curl")).to_contain_text("@body.json")
        send(page)


def test_hostile_name(browser):
    page = open_page(browser, SERVER)
    page.get_by_test_id("search").fill("onerror")
    expect(page.get_by_test_id("service-item")).to_have_count(1)
    page.get_by_test_id("search").press("Enter")
    expect(page.get_by_test_id("service-title")).to_contain_text("<img src=x")
    assert json.loads(send(page))["path"].startswith("/predict/%3Cimg")
    assert page.locator("img").count() == 0
    assert page.title() != "broken in"


def test_keyboard(browser):
    page = open_page(browser, SERVER)
    expect(page.get_by_test_id("service-item")).to_have_count(10)
    page.keyboard.press("/")
    page.keyboard.type("iri")
    expect(page.get_by_test_id("service-count")).to_have_text("1 of 10")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("service-title")).to_contain_text("iris")
    page.get_by_test_id("operation").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id("target")).to_have_text("POST /v2/models/iris/infer")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "body"
    page.keyboard.press("Control+Enter")
    expect(page.get_by_test_id("status")).to_have_text("200 OK")


def test_server(browser):
    page = open_page(browser, SERVER)
    page.get_by_test_id("server-item").click()
    page.get_by_text("/v2/health/ready", exact=True).click()
    assert json.loads(send(page))["method"] == "GET"


def test_states(browser):
    page = open_page(browser, EMPTY)
    expect(page.get_by_test_id("empty")).to_be_visible()
    page.screenshot(path=f"{SHOTS}/empty.png")
    page = open_page(browser, FAILING)
    expect(page.get_by_test_id("error")).to_contain_text("503")
    faults[:] = [f for f in faults if "503" not in f]
    page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("service-item")).to_have_count(10)
    page = open_page(browser, SERVER + "/#/model/gone")
    expect(page.get_by_test_id("unknown")).to_be_visible()
    page.route("**/openapi.json", lambda route: None)
    page.reload()
    expect(page.get_by_test_id("loading")).to_be_visible()


def test_looks(browser):
    for scheme in ["light", "dark"]:
        for name, size in [("wide", (1360, 900)), ("narrow", (390, 844))]:
            page = open_page(browser, SERVER + "/" + IRIS, color_scheme=scheme,
                             viewport={"width": size[0], "height": size[1]})
            send(page)
            page.screenshot(path=f"{SHOTS}/{scheme}-{name}.png", full_page=True)
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{name}: {over} pixels too wide"
        page = open_page(browser, SERVER + "/#/model/tips", color_scheme=scheme)
        choose(page, "Open Inference Protocol")
        send(page, "400")
        page.screenshot(path=f"{SHOTS}/{scheme}-error.png", full_page=True)
        faults[:] = [f for f in faults if "400" not in f]


with sync_playwright() as playwright:
    chromium = launch(playwright)
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            print(name, flush=True)
            test(chromium)
            assert not faults, faults
    chromium.close()
