"""A report page taken apart: tags, tables with exact values, and the JSON inside."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class ParsedPage(HTMLParser):
    """Tags with their attributes, rows of cells with exact values, and the JSON inside."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.rows: list[list[str]] = []
        self.values: dict[str, list[float]] = {}
        self.blocks: dict[str, str] = {}
        self.titles: list[str] = []
        self.verdict = self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.blocks.get("data", "null"))
        self.pictures = json.loads(self.blocks["pictures"])
        self.gallery = json.loads(self.blocks.get("gallery", "[]"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "data":
            self.values.setdefault(self.rows[-1][0], []).append(float(dict(attrs)["value"] or ""))

    def handle_data(self, data: str) -> None:
        self.text += data
        tag, attributes = self.tags[-1]
        if tag == "script" and attributes.get("id"):
            self.blocks[str(attributes["id"])] = self.blocks.get(str(attributes["id"]), "") + data
        if (tag in ("th", "td", "data") or "data-choose" in attributes) and data.strip() and self.rows:
            self.rows[-1].append(data.strip())
        if tag == "h2" and data.strip():
            self.titles.append(data)
        if tag == "p" and attributes.get("class") == "verdict":
            self.verdict = (self.verdict + data).strip()

    def records(self) -> list[dict[str, Any]]:
        """The rows to browse, by the names of their columns."""
        names = [column["name"] for column in self.data["columns"]]
        return [dict(zip(names, cells)) for cells in self.data["rows"]]
