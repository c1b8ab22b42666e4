"""Text, tags and links of an HTML page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        html: the source, without the style sheet.
        text: its text, with single spaces.
        tags: names of all elements.
        links: all attributes that can load something.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html.partition("</style>")[2] or html
        self.text, self.tags, self.links = "", [], []
        self.feed(self.html)
        self.text = " ".join(self.text.replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.text += f"{data} "

    def rows(self, heading: str) -> list[str]:
        """Text of each table row of the section with a heading."""
        section = self.html.partition(f"{heading}</h2>")[2].partition("<h2>")[0]
        return [Page(row).text for row in section.split("<tr>")[1:]]
