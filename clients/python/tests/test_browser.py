"""The docs page of the example application, in a headless Chromium: log in, call, log out, call again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import log_in
from playwright.sync_api import Locator, Page, expect, sync_playwright
from stack import PASSWORD, Stack

SCREENSHOTS = Path(__file__).parents[1] / "examples/fastapi_app/screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 60_000


@pytest.fixture
def page(stack: Stack) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium is not None, "Debian's package chromium is missing"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        yield page
        browser.close()


def execute(page: Page, operation: str) -> Locator:
    """Opens an operation of the docs page, executes it, and returns the response it shows."""
    block = page.locator(f"[id$='-{operation}']")
    if not block.get_by_role("button", name="Execute").is_visible():
        if not block.locator(".opblock-body").is_visible():
            block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
    with page.expect_response(lambda response: response.request.method != "OPTIONS"):
        block.get_by_role("button", name="Execute").click()
    return block.locator(".live-responses-table")


def status(answer: Locator) -> Locator:
    return answer.locator("tbody .response-col_status").first


def screenshot(page: Page, block: Locator, name: str) -> None:
    """Written only if SCREENSHOTS is set: they are committed, and a test must not change them."""
    block.scroll_into_view_if_needed()
    if os.environ.get("SCREENSHOTS"):
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_docs_page_logs_in_and_out(page: Page, stack: Stack) -> None:
    foreign: list[str] = []
    ours = (stack.app_url, stack.issuer_url, "data:", "blob:")
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(ours) else None)
    bearers: list[str | None] = []
    page.on(
        "request",
        lambda request: (
            bearers.append(request.headers.get("authorization")) if request.url == f"{stack.app_url}/me" else None
        ),
    )
    page.goto(f"{stack.app_url}/docs")

    # Without a token, the protected route says so.
    expect(status(execute(page, "me_me_get"))).to_have_text(re.compile("401"))

    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.get_by_label("username:").fill("alice@example.org")
    dialog.get_by_label("password:").fill(PASSWORD)
    dialog.get_by_role("button", name="Apply credentials").or_(
        dialog.locator(".auth-btn-wrapper .authorize")
    ).first.click()
    expect(dialog.get_by_role("button", name="Logout").or_(dialog.get_by_text("Authorized")).first).to_be_visible()
    dialog.locator(".btn-done").click()

    answer = execute(page, "me_me_get")
    expect(status(answer)).to_have_text(re.compile("200"))
    expect(answer.locator(".microlight").first).to_contain_text("alice@example.org")
    screenshot(page, page.locator("[id$='-me_me_get']"), "authorized")

    expect(status(execute(page, "sidegate_logout"))).to_have_text(re.compile("204"))

    # The daemon receives the revocation within milliseconds; the call is repeated until then, with
    # the same bearer token.
    for _ in range(100):
        answer = execute(page, "me_me_get")
        if "401" in status(answer).inner_text():
            break
    expect(status(answer)).to_have_text(re.compile("401"))
    expect(answer.locator(".microlight").first).to_contain_text("token_revoked")
    screenshot(page, page.locator("[id$='-me_me_get']"), "revoked")

    assert bearers[0] is None
    assert len(set(bearers[1:])) == 1
    assert str(bearers[1]).startswith("Bearer ey")
    assert foreign == []


def test_docs_page_marks_protected_routes(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.app_url}/docs")
    expect(page.locator("[id$='-me_me_get'] .authorization__btn")).to_be_visible()
    expect(page.locator("[id$='-sidegate_logout'] .authorization__btn")).to_be_visible()
    assert log_in(stack)["token_type"].lower() == "bearer"
