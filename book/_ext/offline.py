"""Find what built pages would load from elsewhere, and links inside the book that lead nowhere."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

# A link to elsewhere is fine; these are fetched without being asked.
LOADING = {
    "audio": ["src"],
    "embed": ["src"],
    "iframe": ["src"],
    "image": ["href", "xlink:href"],
    "img": ["src", "srcset"],
    "input": ["src"],
    "link": ["href"],
    "object": ["data"],
    "script": ["src"],
    "source": ["src", "srcset"],
    "track": ["src"],
    "video": ["src", "poster"],
}
# These kinds of <link> only name a relation.
NAMING = {"author", "canonical", "index", "license", "next", "prev", "search"}
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """The addresses and anchors of one page."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], set()
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Collect what the tag loads, links to and is called."""
        values = {name: value for name, value in attributes if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        self._in_style = tag == "style"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and set(values.get("rel", "").split()) <= NAMING:
            return
        for name in LOADING.get(tag, []):
            choices = values.get(name, "").split(", ") if name == "srcset" else [values.get(name)]
            self.loads += [choice.split()[0] for choice in choices if choice]
        self.loads += IN_STYLE.findall(values.get("style", ""))

    def handle_data(self, data):
        """Collect what a style sheet inside the page loads."""
        if self._in_style:
            self.loads += IN_STYLE.findall(data)


def foreign_loads(folder):
    """Return "page: address" for everything that pages and style sheets load from elsewhere."""
    found = []
    for path, page in read_pages(folder).items():
        found += [f"{path.relative_to(folder)}: {load}" for load in page.loads if is_foreign(load)]
    for path in sorted(folder.rglob("*.css")):
        loads = IN_STYLE.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(folder)}: {load}" for load in loads]
    return found


def broken_links(folder):
    """Return "page: address" for every link or load inside the book that leads nowhere."""
    folder, found = folder.resolve(), []
    pages = read_pages(folder)
    for path, page in pages.items():
        for link in page.links + page.loads:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            known = pages[target].anchors if target in pages else None
            anchor = unquote(address.fragment)
            if not target.exists() or (anchor and known is not None and anchor not in known):
                found.append(f"{path.relative_to(folder)}: {link}")
    return found


def read_pages(folder):
    """Return the pages by path; what lies in `_static` are the theme's templates."""
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    return {path: Page(path.read_text(encoding="utf-8")) for path in paths}


def is_foreign(address):
    """Tell whether an address leads to another host."""
    return address.strip().startswith(("http:", "https:", "//"))
