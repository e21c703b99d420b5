import shutil

import pytest


@pytest.fixture(scope="module")  # not longer: processes that other tests fork would hold its pipes open
def browser():
    """Headless Chromium; tests that need it are skipped where it is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed (looked for chromium, chromium-browser and google-chrome)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
