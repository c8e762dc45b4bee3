"""Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Error, Page, sync_playwright

PATIENCE_MS = 120_000  # a page of MLflow is megabytes of script
GRID, STEP_PX = ".ReactVirtualized__Grid", 180  # a table of names, one of values; rows are 45 high
PLACE = "link => { while (!link.style.top) link = link.parentElement; return link.style.top }"
CELLS = """(grid, top) => [...grid.firstElementChild.children].filter(cell => cell.style.top === top)
    .sort((one, other) => parseFloat(one.style.left) - parseFloat(other.style.left)).map(cell => cell.innerText)"""
SCROLLED = "grid => grid.scrollTop"
FOLDER = Path(__file__).parents[1] / "build" / "screenshots"


def chromium() -> str | None:
    """The program, where it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser_page() -> Iterator[Page]:
    """An empty page, as on a large screen; how it looked when a test failed is kept."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 2300})
        page.set_default_timeout(PATIENCE_MS)
        try:
            yield page
        except BaseException:
            keep_screenshot(page, "failed")
            raise
        finally:
            browser.close()


def comparison(url: str, *, experiment: str, runs: Sequence[str]) -> str:
    """The address at which MLflow shows runs side by side."""
    quoted = [json.dumps(list(ids), separators=(",", ":")).replace('"', "%22") for ids in (runs, [experiment])]
    return f"{url}/#/compare-runs?runs={quoted[0]}&experiments={quoted[1]}"


def compared_metric(page: Page, name: str) -> list[str]:
    """What the comparison shows for a metric, run by run, after scrolling there: MLflow draws only what is in sight."""
    names = page.locator(GRID, has=page.get_by_title("Plot chart")).first
    names.wait_for()
    values = names.locator("xpath=following::div[contains(concat(' ', @class, ' '), ' ReactVirtualized__Grid ')][1]")
    line = names.get_by_text(name, exact=True)
    for top in range(0, int(values.evaluate("grid => grid.scrollHeight")), STEP_PX):
        for nudge in range(50):  # MLflow moves the names to where the values were before
            values.evaluate("(grid, top) => { grid.scrollTop = top }", top + nudge % 2)
            page.wait_for_timeout(200)
            if nudge and abs(names.evaluate(SCROLLED) - values.evaluate(SCROLLED)) <= 1:
                break
        if line.count():
            return list(values.evaluate(CELLS, line.first.evaluate(PLACE)))
    raise LookupError(f"the comparison has no metric {name}")


def keep_screenshot(page: Page, name: str) -> Path:
    """The whole page as `name`.png, in FACSCALE_SCREENSHOTS or build/screenshots."""
    folder = Path(os.environ.get("FACSCALE_SCREENSHOTS") or FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    for close in page.get_by_role("button", name="Close").all():  # MLflow's assistant takes a third of the page
        with suppress(Error):
            close.click(timeout=2_000)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
    return folder / f"{name}.png"
