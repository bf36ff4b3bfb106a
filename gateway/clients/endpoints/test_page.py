"""Calls endpoints from the page of the server, in a browser.

Usage: test_page.py BROWSER FOLDER_FOR_SCREENSHOTS HTTP_ADDRESS
"""

import json
import re
import sys

import samples
from playwright.sync_api import expect, sync_playwright

BROWSER, SHOTS, SERVER = sys.argv[1], sys.argv[2], "http://" + sys.argv[3]
PROTOCOLS = ["Plain JSON", "Open Inference Protocol", "KServe V1", "MLflow"]
faults = []  # of the browser's console


def open_page(browser, path="/docs", **context):
    context.setdefault("viewport", {"width": 1360, "height": 900})
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.goto(SERVER + path)
    return page


def send(page, status="200"):
    """Sends the request and returns the text of the answer."""
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("status")).to_contain_text(status)
    return page.get_by_test_id("answer-body").inner_text()


def answered(page, version, route):
    expect(page.get_by_test_id("x-millrace-version")).to_have_text(version)
    expect(page.get_by_test_id("x-millrace-route")).to_have_text(route)


def names(value):
    """Returns all strings in a value."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in names(v)]
    if isinstance(value, list):
        return [n for v in value for n in names(v)]
    return [value] if isinstance(value, str) else []


def check_iris(browser):
    page = open_page(browser)
    page.get_by_test_id("search").fill("iris")
    page.get_by_test_id("service-item").first.click()
    expect(page.get_by_test_id("service-title")).to_contain_text("iris")
    expect(page.get_by_test_id("inputs")).to_contain_text("petal_length")
    flower = samples.cases("iris")[0].inputs["X"][0].tolist()
    features = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    bodies = [dict(zip(features, flower)),
              {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": flower}]},
              {"instances": [flower]},
              {"dataframe_split": {"columns": features, "data": [flower]}}]
    for protocol, body in zip(PROTOCOLS, bodies):
        page.get_by_text(protocol, exact=True).click()
        example = json.loads(page.get_by_test_id("body").input_value())
        assert example.keys() == body.keys(), (protocol, example)
        send(page)  # the example is one that the server takes
        page.get_by_test_id("body").fill(json.dumps(body))
        answer = json.loads(send(page))
        assert "setosa" in names(answer), (protocol, answer)
        answered(page, "1", "stable")
    page.locator("summary").click()
    page.get_by_test_id("headers").fill("x-team: risk")
    send(page)
    answered(page, "2", "canary")


def check_examples(browser):
    """Every example of every service is one that the server takes."""
    page = open_page(browser)
    expect(page.get_by_test_id("service-item").first).to_be_visible()
    items = page.get_by_test_id("service-item")
    for i in range(items.count()):
        # The one takes a request a day, the other numbers in strings, which no signature tells.
        if re.search(r"\b(closed|simple_string)\b", items.nth(i).inner_text()):
            continue
        items.nth(i).click()
        for protocol in PROTOCOLS:
            page.get_by_text(protocol, exact=True).click()
            try:
                send(page)
            except AssertionError as e:
                raise AssertionError("%s, %s: %s\n%s" % (
                    items.nth(i).inner_text(), protocol,
                    page.get_by_test_id("body").input_value()[:2000],
                    page.get_by_test_id("answer-body").inner_text())) from e


def check_errors(browser):
    page = open_page(browser, "/docs#/endpoint/bills")
    page.get_by_text("KServe V1", exact=True).click()
    page.get_by_test_id("body").fill('{"instances": [{"size": "many"}]}')
    assert "size" in send(page, "400")
    faults[:] = [f for f in faults if "400" not in f]  # browsers log each such answer


def check_looks(browser):
    for scheme in ["light", "dark"]:
        for size, (width, height) in {"wide": (1360, 900), "narrow": (390, 844)}.items():
            for name in ["iris", "bills"]:
                page = open_page(browser, f"/docs#/endpoint/{name}", color_scheme=scheme,
                                 viewport={"width": width, "height": height})
                send(page)
                page.screenshot(path=f"{SHOTS}/{scheme}-{size}-{name}.png", full_page=True)
                over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert over <= 0, f"{name}, {size}: {over} pixels too wide"


with sync_playwright() as playwright:
    # A sandbox needs a user other than root, and tests run as any.
    chromium = playwright.chromium.launch(executable_path=BROWSER, args=[
        "--no-sandbox", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-first-run"])
    for check in [check_iris, check_examples, check_errors, check_looks]:
        print(check.__name__, flush=True)
        check(chromium)
        assert not faults, faults
    chromium.close()
