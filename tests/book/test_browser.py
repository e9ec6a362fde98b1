"""The built pages in a real browser: nothing fails, nothing is too wide, everybody can read them.

Chromium is the system's own; pictures of every page are left in `screenshots/` beside this file.
"""

import base64
import contextlib
import functools
import io
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from mddm import plotting, viewer
from mddm.study import tables

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book"))

import print_book

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
axe = pytest.importorskip("axe_playwright_python", reason="pip install -e '.[dev]'")

# The pages are the `built` ones of the other tests here, in the process that builds them.
pytestmark = pytest.mark.xdist_group("book")

SCREENSHOTS = Path(__file__).parent / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# What the theme and docutils do and a line of CSS cannot mend: rule, selector and why.
KNOWN_VIOLATIONS = {
    # docutils gives references the role of a list whose entries are no list items.
    ("aria-required-children", ".citation-list"),
}
# What takes long and is the same everywhere: of definitions in a row the first stands for all,
# a formula's glyphs are no text to axe; code and the list of chapters are looked at on one page.
REPEATED = ["dl.py ~ dl.py", "mjx-container", "div.highlight", ".bd-sidebar-primary"]
AUDIT = """exclude => {
    for (const animation of document.getAnimations()) animation.finish();
    exclude = exclude.filter(part => document.querySelector(part));
    return axe.run({exclude}, {
        preload: false,
        resultTypes: ["violations"],
        runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    });
}"""


def pages_of(built):
    """The pages that a reader sees; the first one only leads on to the introduction."""
    for path in sorted(built.rglob("*.html")):
        if "_static" not in path.parts and 'http-equiv="Refresh"' not in path.read_text():
            yield path.relative_to(built).as_posix()


def audit(page, leave_out=REPEATED):
    """The serious faults that axe-core finds, but for the known ones."""
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate(AUDIT, leave_out)
    return [
        f"{page.url}: {violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if (violation["id"], node["target"][-1]) not in KNOWN_VIOLATIONS
    ]


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


def page_with_outputs(built, outputs):
    """A page of the book that has these outputs of cells below its title."""
    text = (built / "notebooks" / "sample.html").read_text()
    cells = "".join(
        f'<div class="cell_output docutils container">{output}</div>' for output in outputs
    )
    # The theme repeats the title, out of sight, above the article.
    before, article, after = text.partition("<article")
    body = before + article + after.replace("</h1>", f"</h1>{cells}", 1)
    assert body != text
    return body


def picture(page, name, kind):
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name.removesuffix('.html').replace('/', '-')}-{kind}.png"
    page.screenshot(path=path)


def test_every_page_is_sound_on_a_server(built, site, new_page):
    page, faults, too_wide = new_page(), [], {}
    for name in pages_of(built):
        page.set_viewport_size(DESKTOP)
        page.goto(site + name)
        faults += audit(page)
        picture(page, name, "desktop")
        page.set_viewport_size(PHONE)
        if width(page) > PHONE["width"]:
            too_wide[name] = width(page)
        picture(page, name, "phone")
    assert page.complaints == []
    assert faults == []
    assert too_wide == {}


def test_every_page_opens_from_disk(built, new_page):
    page = new_page()
    for name in pages_of(built):
        page.goto((built / name).as_uri())
    assert page.complaints == []


@pytest.mark.parametrize("look", ["light", "dark"])
def test_a_whole_page_is_readable(site, new_page, look):
    page = new_page(color_scheme=look)
    page.goto(site + "notebooks/posterior.html")
    assert page.evaluate("document.documentElement.dataset.theme") == look
    assert audit(page, leave_out=["mjx-container"]) == []


@pytest.mark.parametrize("where", ["server", "disk"])
def test_search_finds_a_word(built, site, new_page, where):
    page = new_page()
    start = site if where == "server" else built.as_uri() + "/"
    page.goto(f"{start}search.html?q=downhill")
    result = page.locator("#search-results li a", has_text="From noise to structure")
    result.click()
    page.wait_for_url("**/notebooks/sample.html*")
    assert where == "disk" or page.complaints == []


def test_wide_figures_and_tables_are_readable_on_a_phone(built, site, new_page):
    """Letters as `plotting` sets them are 7 pixels high, and all of the figure can be reached.

    A table that goes on beyond its frame says so, to its end.
    """
    with mpl.rc_context():
        plotting.set_style()
        dots = mpl.rcParams["figure.dpi"]
        letters = mpl.rcParams["xtick.labelsize"] / 72 * dots
    figures = []
    for inches in (5, 8, 12):
        packed = io.BytesIO()
        Image.new("L", (round(inches * dots), 400), "gray").save(packed, "PNG")
        source = base64.b64encode(packed.getvalue()).decode()
        figures.append(
            f'<figure class="align-default"><img src="data:image/png;base64,{source}" alt="Gray.">'
            "<figcaption>Gray.</figcaption></figure>"
        )
    cells = "<td>0.123</td>" * 12
    table = f'<div class="output text_html"><table><tr>{cells}</tr></table></div>'
    body = page_with_outputs(built, [*figures, table])
    page = new_page()
    page.route("**/wide.html", lambda route: route.fulfill(body=body))
    page.goto(site + "notebooks/wide.html")
    more = page.locator(".cell_output > .output[data-more]")
    sync_api.expect(more).to_have_count(0)
    frames = page.locator(".cell_output > figure")
    fits = "all => all.every(one => one.scrollWidth <= one.clientWidth)"
    assert frames.evaluate_all(fits), "on a wide screen nothing scrolls"
    page.set_viewport_size(PHONE)
    scrolled = page.locator(".cell_output > figure[tabindex]")
    sync_api.expect(scrolled).to_have_count(1)
    assert width(page) <= PHONE["width"]
    scales = page.locator(".cell_output > figure > img").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width / one.naturalWidth)"
    )
    assert min(scales) * letters >= 6.9
    scrolled.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")
    sync_api.expect(more).to_have_count(1)
    more.evaluate("table => table.scrollTo(9999, 0)")
    sync_api.expect(more).to_have_count(0)


def test_the_first_table_fits_a_phone(site, built, new_page):
    root = Path(__file__).resolve().parents[2]
    summed = tables.read_scores(root / "data" / "results" / "table1.csv")
    table = MarkdownIt("commonmark").enable("table").render(tables.summary(summed))
    body = page_with_outputs(built, [f'<figure class="align-default">{table}</figure>'])
    page = new_page(viewport=PHONE)
    page.route("**/table.html", lambda route: route.fulfill(body=body))
    page.goto(site + "notebooks/table.html")
    last = page.locator(".cell_output > figure td:last-child")
    edges = last.evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert len(edges) > 10 and max(edges) <= PHONE["width"]


def test_on_paper_folds_and_side_bars_are_left_out(site, new_page):
    page = new_page()
    page.goto(site + "notebooks/train.html")
    page.emulate_media(media="print")
    seen = "all => all.map(one => one.checkVisibility())"
    for left_out in ("details:not([open])", ".bd-sidebar-primary", ".bd-sidebar-secondary"):
        visible = page.locator(left_out).evaluate_all(seen)
        assert visible and not any(visible), left_out
    assert any(page.locator(".cell_input pre").evaluate_all(seen)), "what is not folded stays"


def test_a_page_is_printed_with_bookmarks(built, browser):
    printed = print_book.as_pdf(browser, built / "glossary.html")
    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/Type /Page\n") > 1
    assert b"/Outlines" in printed


# ---- the viewer ------------------------------------------------------------------------------

KEEP_CONTEXTS = """
    window.contexts = [];
    const { getContext } = HTMLCanvasElement.prototype;
    HTMLCanvasElement.prototype.getContext = function (kind, options) {
        const context = getContext.call(this, kind, options);
        if (kind === "webgl2") contexts.push(context);
        return context;
    };
"""
LABELS = ["gas", "liquid", "crystal"]


@pytest.fixture(scope="module")
def shown():
    """Two viewers: a lattice that noise dissolves, and a single cloud in free space."""
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*3 * [np.arange(0.5, 6)]), axis=-1).reshape(-1, 3)
    frames = [lattice + sigma * rng.normal(size=lattice.shape) for sigma in (1, 0.2, 0.02)]
    first = viewer.show(
        frames,
        6.0,
        color=np.arange(len(lattice)),
        color_label="number",
        labels=LABELS,
        caption="A lattice that melts.",
    )
    return first, viewer.show(rng.normal(size=(200, 3)), None)


@pytest.fixture
def in_book(built, site, shown, new_page):
    """Open a page of the book that has the viewers among its outputs."""
    outputs = [f'<div class="output text_html">{one.html}</div>' for one in shown]
    body = page_with_outputs(built, outputs)

    def open_page(**options):
        page = new_page(**options)
        page.route("**/in-book.html", lambda route: route.fulfill(body=body))
        page.goto(site + "notebooks/in-book.html")
        page.wait_for_function("document.querySelector('.mddm-scene').width != 300")
        return page

    return open_page


@pytest.fixture
def with_viewers(shown, new_page, tmp_path):
    """Open a page from disk that has the viewers and little else."""
    far_below = '<div style="height: 3000px"></div>'
    page_file = tmp_path / "page.html"
    page_file.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Viewers</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<body>{shown[0].html}{far_below}{shown[1].html}"
    )

    def open_page(drawn=True, contexts=False, **options):
        page = new_page(**{"viewport": {"width": 600, "height": 900}} | options)
        if contexts:
            page.add_init_script(KEEP_CONTEXTS)
        page.goto(page_file.as_uri())
        if drawn:
            page.wait_for_function("document.querySelector('.mddm-scene').width != 300")
        return page

    return open_page


def scene(page, number=0):
    """What a viewer's canvas shows: (n, n, 4) colours and their opacity."""
    # The picture follows a change with the next animation frame.
    address = page.evaluate(
        """number => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>
            done(document.querySelectorAll(".mddm-scene")[number].toDataURL())
        )))""",
        number,
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def check_label(page, expected):
    sync_api.expect(page.locator("figure output").first).to_have_text(expected)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_the_viewer_draws_and_everybody_can_use_it(in_book, look):
    page = in_book(color_scheme=look)
    drawn = scene(page)
    covered = (drawn[..., 3] > 0).mean()
    assert 0.1 < covered < 0.9
    assert len(np.unique(drawn.reshape(-1, 4), axis=0)) > 500, "spheres are shaded"
    check_label(page, LABELS[-1])
    assert audit(page) == []
    picture(page, "viewer", look)
    assert page.complaints == []


def test_what_is_off_screen_is_not_drawn(with_viewers):
    page = with_viewers()
    assert not scene(page, 1).any()
    page.locator(".mddm-scene").nth(1).scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.mddm-scene')[1].width > 300")
    assert scene(page, 1).any()


def test_viewers_share_one_name(with_viewers):
    page = with_viewers()
    names = page.evaluate("Object.keys(window).filter(name => /mddm/i.test(name))")
    assert names == ["mddmViewer"]
    assert page.locator(".mddm-mounted").count() == 2


def test_the_slider_moves_the_frames(with_viewers):
    page = with_viewers()
    crystal = scene(page)
    curve = page.locator(".mddm-curve").first
    curve_before = curve.screenshot()
    page.get_by_label("Frame", exact=True).first.focus()
    page.keyboard.press("Home")
    check_label(page, "gas")
    assert (scene(page) != crystal).any()
    assert "gas" in curve.get_attribute("aria-label")
    assert curve.screenshot() != curve_before
    page.keyboard.press("End")
    check_label(page, "crystal")
    assert (scene(page) == crystal).all()


@pytest.mark.parametrize("key", ["ArrowLeft", "ArrowUp", "+", "-"])
def test_keys_turn_and_zoom(with_viewers, key):
    page = with_viewers()
    before = scene(page)
    page.locator(".mddm-scene").first.focus()
    page.keyboard.press(key)
    after = scene(page)
    assert (after != before).any()
    more = (after[..., 3] > 0).sum() / (before[..., 3] > 0).sum()
    assert {"+": more > 1.1, "-": more < 0.9}.get(key, True)
    page.get_by_role("button", name="Reset view").first.click()
    assert (scene(page) == before).all()


def test_keys_step_and_play(with_viewers):
    page = with_viewers()
    page.locator(".mddm-scene").first.focus()
    for key, expected in ((",", "liquid"), (",", "gas"), (",", "gas"), (".", "liquid")):
        page.keyboard.press(key)
        check_label(page, expected)
    # It plays for a moment only, which a busy machine would miss.
    page.get_by_role("button", name="Play").first.evaluate(
        """button => {
            window.said = [];
            const added = (changes) => changes.flatMap(({addedNodes}) => [...addedNodes]);
            const watch = new MutationObserver((changes) => {
                said.push(...added(changes).map((node) => node.textContent));
            });
            watch.observe(button, {childList: true});
        }"""
    )
    page.keyboard.press("Space")
    check_label(page, LABELS[-1])
    page.get_by_role("button", name="Play").first.wait_for()
    assert "Pause" in page.evaluate("said")


def test_the_mouse_turns_and_only_then_zooms(with_viewers):
    page = with_viewers()
    before = scene(page)
    box = page.locator(".mddm-scene").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.wheel(0, -100)
    assert (scene(page) == before).all(), "the wheel scrolls the page until the view is clicked"
    page.evaluate("scrollTo(0, 0)")
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 120)
    page.mouse.up()
    turned = scene(page)
    assert (turned != before).any()
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(100)
    assert (scene(page)[..., 3] > 0).sum() > 1.1 * (turned[..., 3] > 0).sum()


@pytest.fixture
def touched(with_viewers):
    """A viewer on a phone: its page, its view, and a way to move fingers over the screen."""
    page = with_viewers(viewport=PHONE, has_touch=True, is_mobile=True)
    session = page.context.new_cdp_session(page)

    def send(kind, *points):
        places = [{"id": finger, "x": x, "y": y} for finger, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    def swipe(*fingers, begin=(0, 0)):
        """Move each finger by steps in a straight line, from one place to another."""
        paths = np.linspace(*np.swapaxes(fingers, 0, 1), 6) + np.asarray(begin)
        send("touchStart", *paths[0].tolist())
        for points in paths[1:].tolist():
            send("touchMove", *points)
        send("touchEnd")

    box = page.locator(".mddm-scene").first.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return page, functools.partial(swipe, begin=middle)


def scrolled(page):
    page.wait_for_timeout(100)
    return page.evaluate("scrollY")


def test_one_finger_turns(touched):
    page, swipe = touched
    before = scene(page)
    swipe([(-60, 0), (60, 0)])
    turned = scene(page)
    assert (turned != before).any()
    swipe([(0, 80), (0, -80)])
    assert (scene(page) != turned).any(), "once in hand, the view also turns up and down"
    assert scrolled(page) == 0
    assert page.complaints == []


def test_an_upright_swipe_scrolls_until_the_view_is_in_hand(touched):
    page, swipe = touched
    before = scene(page)
    swipe([(0, 80), (0, -80)])
    page.wait_for_function("scrollY > 50")
    assert (scene(page) == before).all()
    page.locator(".mddm-scene").first.tap()  # it also ends the momentum of the page
    page.evaluate("scrollTo(0, 0)")
    assert (scene(page) == before).all()
    swipe([(0, 80), (0, -80)])
    assert (scene(page) != before).any()
    assert scrolled(page) == 0


def test_two_fingers_zoom(touched):
    page, swipe = touched
    covered = [(scene(page)[..., 3] > 0).sum()]
    for path in ([(0, 60), (0, 40)], [(40, 0), (80, 0)]):
        swipe(path, [(-x, -y) for x, y in path])
        covered.append((scene(page)[..., 3] > 0).sum())
    assert covered[1] < 0.8 * covered[0]
    assert covered[2] > 1.5 * covered[1]
    assert page.evaluate("visualViewport.scale") == 1
    assert scrolled(page) == 0


def test_a_finger_moves_the_slider_and_scrolls_beside_the_view(touched):
    page, swipe = touched
    slider = page.locator(".mddm-slider").first.bounding_box()
    x, y = slider["x"], slider["y"] + slider["height"] / 2
    swipe([(x + slider["width"] - 8, y), (x + 8, y)], begin=(0, 0))
    check_label(page, "gas")
    assert scrolled(page) == 0
    swipe([(200, 800), (200, 600)], begin=(0, 0))
    page.wait_for_function("scrollY > 50")


def test_periodic_images_surround_the_box(with_viewers):
    page = with_viewers()
    before = scene(page)
    button = page.get_by_role("button", name="Periodic images").first
    button.click()
    assert (scene(page) != before).any()
    assert button.get_attribute("aria-pressed") == "true"
    picture(page, "viewer", "images")
    assert not page.get_by_role("button", name="Periodic images").nth(1).is_visible()


def test_the_viewer_fits_a_small_phone(in_book):
    page = in_book(viewport={"width": 320, "height": 640}, device_scale_factor=3, has_touch=True)
    assert width(page) <= 320
    drawn = scene(page)
    size = page.locator(".mddm-scene").first.bounding_box()["width"]
    assert drawn.shape[1] == pytest.approx(3 * size, abs=1), "a canvas pixel is a screen pixel"
    page.locator("figure").first.scroll_into_view_if_needed()
    picture(page, "viewer", "phone")


def check_still(page):
    still = page.locator(".mddm-still").first
    assert still.is_visible()
    assert still.evaluate("image => image.naturalWidth") > 400
    assert not page.locator(".mddm-controls, .mddm-scene").first.is_visible()


def test_without_webgl_a_still_picture_is_shown(start, with_viewers):
    with contextlib.closing(start(["--disable-3d-apis"])) as plain:
        page = with_viewers(drawn=False, using=plain)
        check_still(page)
        assert page.complaints == []


def test_while_its_context_is_lost_a_still_picture_is_shown(with_viewers):
    page = with_viewers(contexts=True)
    before = scene(page)
    page.evaluate("(window.loss = contexts[0].getExtension('WEBGL_lose_context')).loseContext()")
    page.locator(".mddm-still").first.wait_for()
    check_still(page)
    assert page.locator(".mddm-still").nth(1).evaluate("image => image.checkVisibility()")
    page.evaluate("loss.restoreContext()")
    page.locator(".mddm-scene").first.wait_for()
    assert not page.locator(".mddm-still").first.is_visible()
    assert (scene(page) == before).all()
    page.locator(".mddm-scene").nth(1).scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.mddm-scene')[1].width > 300")
    assert scene(page, 1).any()
    assert page.complaints == []


def test_without_scripts_a_still_picture_is_shown(with_viewers):
    check_still(with_viewers(drawn=False, java_script_enabled=False))


def test_on_paper_a_still_picture_is_shown(with_viewers):
    page = with_viewers()
    assert not page.locator(".mddm-still").first.is_visible()
    page.emulate_media(media="print")
    check_still(page)
