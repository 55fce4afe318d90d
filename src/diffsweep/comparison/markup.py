"""Build HTML and SVG as trees of elements, whose texts and attributes are escaped when they are written."""

import base64
import hashlib
from xml.etree.ElementTree import Element, tostring


def element(name: str, /, *children: "Element | str | None", **attributes: object) -> Element:
    """Return an element of HTML or SVG.

    Args:
        name: of the element, such as ``td``.
        children: its texts and elements in their order; None is left out.
        attributes: their names with underscores for hyphens (``class_`` is ``class``); those that are None are left
            out, and a number is written with at most five digits.
    """
    made = {
        key.rstrip("_").replace("_", "-"): f"{value:.5g}" if isinstance(value, float) else str(value)
        for key, value in attributes.items()
        if value is not None
    }
    node = Element(name, made)
    for child in children:
        if isinstance(child, str):
            if len(node):
                node[-1].tail = (node[-1].tail or "") + child
            else:
                node.text = (node.text or "") + child
        elif child is not None:
            node.append(child)
    return node


def as_page(head: "list[Element]", body: Element, style: str, script: str) -> str:
    """Return a whole page of HTML that loads nothing, and in which no other script or style has an effect.

    Its content security policy permits pictures that are in the page, and the script and the style by their hashes.

    Args:
        head: elements of the head, such as the title.
        body: the element ``body``.
        style: of the page, CSS.
        script: of the page, JavaScript that runs when the page has been read.
    """
    allowed = {"style-src": style, "script-src": script}
    hashes = [f"{source} '{_hash(text)}'" for source, text in allowed.items()]
    policy = "; ".join(["default-src 'none'", "img-src data:", *hashes, "base-uri 'none'", "form-action 'none'"])
    body.append(element("script", script))
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            *head,
            element("style", style),
        ),
        body,
        lang="en",
    )
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
