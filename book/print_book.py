"""Print the book, which `make pdf` has built as a single page, to book/_build/book.pdf."""

import shutil
import sys
from pathlib import Path

from mddm import files

BUILD = Path(__file__).resolve().parent / "_build"
FOOTER = (
    '<div style="font: 8px sans-serif; text-align: center; width: 100%">'
    '<span class="pageNumber"></span></div>'
)


def as_pdf(browser, page: Path) -> bytes:
    """Return a page from disk as PDF, with bookmarks and numbered sheets.

    Args:
        browser: a Chromium that Playwright has started.
        page: an HTML file of the built book.
    """
    sheet = browser.new_page()
    try:
        sheet.goto(page.as_uri())
        # Formulas are set after the page has loaded; a page without any has no MathJax.
        sheet.evaluate("async () => { await window.MathJax?.startup.promise; }")
        return sheet.pdf(
            prefer_css_page_size=True,
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            outline=True,
            tagged=True,
        )
    finally:
        sheet.close()


def main() -> None:
    """Print the single page with the Chromium of this machine."""
    from playwright.sync_api import sync_playwright

    page, target = BUILD / "singlehtml" / "intro.html", BUILD / "book.pdf"
    if not page.is_file():
        sys.exit(f"{page} is missing: run `make pdf`")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        sys.exit("no Chromium is installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        # A sandbox cannot be had as root, in a container; the page is the book's own.
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        printed = as_pdf(browser, page)
        browser.close()
    files.write_whole(target, printed)
    print(f"{target}: {len(printed) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
