"""The registry for people: repositories, and of each its tags, layers and sizes. No script, nothing from elsewhere, all escaped."""

import base64
import hashlib
import time
from collections.abc import Callable
from html import escape
from urllib.parse import quote

from berth.registry.server import names
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request
from berth.registry.server.summaries import Summary

_MOST_REPOSITORIES = 500
_MOST_TAGS = 200
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}a{color:#0b57d0}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd;vertical-align:top}
td.number,th.number{text-align:right}code{font-size:.85em;overflow-wrap:anywhere}form{margin:1rem 0}input{font:inherit;padding:.2rem .4rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8ab4f8}th,td{border-color:#444}}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip


async def front(registry: Registry, request: Request) -> None:
    """All repositories, or those that a search finds."""
    term = request.exchange.query.get("q", "")[:200]
    host = request.exchange.headers.get("host", "")
    await _respond(registry, request, _front, term, host, lambda name: registry.access.sees(request.who, name))


async def repository(registry: Registry, request: Request) -> None:
    await _respond(registry, request, _repository, request.name, request.exchange.headers.get("host", ""))


async def _respond(registry: Registry, request: Request, make: Callable[..., str], *words: object) -> None:
    html = await registry.run(make, registry, *words)
    request.exchange.respond_bytes(200, html.encode("utf-8", "replace"), dict(_HEADERS))


def _front(registry: Registry, term: str, host: str, seen: Callable[[str], bool]) -> str:
    everything = sorted(name for name in list(registry.contents.names) if seen(name))
    found = [entry["name"] for entry in registry.index.search(term, 100, seen)] if term.strip() else everything[:_MOST_REPOSITORIES]
    rows = []
    for name in found:
        cells = (f'<a href="/r/{quote(name)}">{escape(name)}</a>', escape(registry.index.words(name)))
        rows.append(_row(cells, (str(registry.index.tags(name)), str(registry.index.pulls(name)))))
    body = (
        f'<h1>Images on {escape(host or "this registry")}</h1><form action="/"><input name="q" value="{escape(term)}" aria-label="Search"> '
        f"<button>Search</button></form>"
    )
    if rows:
        body += _table(("Repository", "Description"), ("Tags", "Pulls"), rows)
    else:
        body += "<p>Nothing was found.</p>" if term else f"<p>There is nothing yet: <code>docker push {escape(host)}/NAME:TAG</code></p>"
    if not term and len(everything) > len(found):
        body += f"<p>{len(everything) - len(found)} more are not shown; search for them.</p>"
    return _page(f"Images on {host}", body)


def _repository(registry: Registry, name: str, host: str) -> str:
    if not names.is_name(name) or name not in registry.contents.names:
        raise Refused("NAME_UNKNOWN", f"repository {name[:200]} is not known here")
    pushed = {entry.name: entry.modified_s for entry in registry.contents.manifests(name)}
    tags = registry.contents.tags(name)
    parts = [f'<p><a href="/">All repositories</a></p><h1>{escape(name)}</h1>']
    if words := registry.index.words(name):
        parts.append(f"<p>{escape(words)}</p>")
    parts.append(f"<p>{_counted(len(tags), 'tag')}, {_counted(registry.index.pulls(name), 'pull')}</p>")
    for tag in tags[:_MOST_TAGS]:
        digest = registry.contents.resolve(name, tag)
        summary = registry.index.summary(name, digest) if digest else None
        parts.append(f'<h2 id="{escape(tag)}">{escape(tag)}</h2><p><code>docker pull {escape(host)}/{escape(name)}:{escape(tag)}</code></p>')
        if summary:
            parts.append(_of_tag(summary, pushed.get(digest.removeprefix("sha256:"), 0.0)))
    if len(tags) > _MOST_TAGS:
        parts.append(f"<p>{len(tags) - _MOST_TAGS} more tags are not shown.</p>")
    return _page(name, "".join(parts))


def _of_tag(summary: Summary, pushed_s: float) -> str:
    facts = [f"<code>{escape(summary.digest)}</code>", size_text(summary.size_bytes)]
    if summary.platform:
        facts.append(escape(summary.platform))
    if pushed_s:
        facts.append(f"pushed {time.strftime('%Y-%m-%d %H:%M', time.gmtime(pushed_s))} UTC")
    html = f"<p>{', '.join(facts)}</p>"
    for image in summary.images or [summary]:
        if image is not summary:
            html += f"<p>{escape(image.platform or 'no platform')}: <code>{escape(image.digest)}</code></p>"
        rows = [_row((f"<code>{escape(layer.digest)}</code>", escape(layer.media_type)), (size_text(layer.size_bytes),)) for layer in image.layers]
        if rows:
            html += _table(("Layer", "Type"), ("Size",), rows)
    return html


def _table(texts: tuple[str, ...], numbers: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f"<th>{text}</th>" for text in texts) + "".join(f'<th class="number">{text}</th>' for text in numbers)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(texts: tuple[str, ...], numbers: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "".join(f'<td class="number">{text}</td>' for text in numbers) + "</tr>"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(count: int) -> str:
    """`12.3 MB`, in powers of ten as Docker shows sizes."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
