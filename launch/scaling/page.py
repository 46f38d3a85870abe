"""A report's Markdown as one HTML page that needs nothing else: no network, no font, no script."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from launch.scaling.plots import INK, PAPER, Plot

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #222222; --faint: #d8d8d8; --tint: #f4f6f8; --link: #0060a0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e4e4e4; --faint: #3c4248; --tint: #1f2429; --link: #7cc0f4; }
}
@media print { :root { color-scheme: light; --paper: #ffffff; --ink: #000000; --tint: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin: 1.8em 0 .5em; }
h1 { margin-top: .5em; }
h2 { border-bottom: 1px solid var(--faint); padding-bottom: .2em; }
a { color: var(--link); }
.table { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .6em; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th { background: var(--tint); vertical-align: bottom; white-space: normal; }
tbody tr:hover { background: var(--tint); }
pre { background: var(--tint); padding: .7em; overflow-x: auto; font-size: .8rem; }
code { font-size: .9em; }
figure { margin: 1.2em 0; }
figure svg { width: 100%; height: auto; }
figcaption { font-size: .85rem; }
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  figure, .table, pre { break-inside: avoid; }
  .table { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .15em .3em; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser is told to fetch nothing."""


def render_page(markdown: str, plots: Mapping[str, Plot], title: str) -> str:
    """The page.

    Args:
        markdown: the text; raw HTML in it is shown as it is written.
        plots: by what the text calls their files.
        title: of the browser's window.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(renderer: Any, tokens: Any, index: int, options: Any, environment: Any) -> str:
        plot = plots[tokens[index].attrs["src"]]
        return f"<figure>{inline_svg(plot)}<figcaption>{html.escape(plot.caption)}</figcaption></figure>"

    def heading(renderer: Any, tokens: Any, index: int, options: Any, environment: Any) -> str:
        if tokens[index].tag == "h2":
            tokens[index].attrSet("id", anchor(tokens[index + 1].content))
        return str(renderer.renderToken(tokens, index, options, environment))

    parser.add_render_rule("image", image)
    parser.add_render_rule("heading_open", heading)
    body = parser.render(markdown)
    # A figure is no text, and a wide table scrolls by itself.
    body = re.sub(r"<p>(<figure>.*?</figure>)</p>", r"\1", body, flags=re.DOTALL)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def anchor(heading: str) -> str:
    """What a link to a heading is called, here as on code-hosting sites."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def inline_svg(plot: Plot) -> str:
    """A picture as part of the page: in the page's colours, as wide as there is room, told to those who do not see it.

    Names inside are made those of this plot alone, so that two plots of a page cannot take each other's parts.
    """
    svg = plot.svg[plot.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{plot.name}-", svg)
    head, rest = svg.split(">", 1)
    width = re.search(r'viewBox="0 0 ([\d.]+)', head)
    head = re.sub(r' (width|height|xmlns(:\w+)?|version)="[^"]*"', "", head).replace("xlink:href", "href")
    rest = rest.replace("xlink:href", "href")
    size = f' style="max-width: {float(width[1]) * 1.35:.0f}px"' if width else ""
    return f'{head} role="img" aria-label="{html.escape(plot.caption)}"{size}>{rest}'
