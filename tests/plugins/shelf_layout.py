"""A layout in a package of its own: SHELF-PERSON-VIDEO.avi, all in one folder, and a label file beside each."""

from __future__ import annotations

import re

from facscale.ingest.items import Item
from facscale.ingest.label_files import LabelRows, iterate_rows, parse_code, parse_whole
from facscale.ingest.layouts import Layout, LayoutConfig


class ShelfConfig(LayoutConfig):
    shelf: str = "a"


class Shelf(Layout):
    Config = ShelfConfig
    label_place = "SHELF-PERSON-VIDEO.csv"

    def list_items(self, files):
        for name in files:
            match = re.fullmatch(rf"{re.escape(self.config.shelf)}-(\w+)-(\w+)\.avi", name)
            if match:
                label = f"{name[:-4]}.csv"
                yield Item(match[1], match[2], "", (name,), labels=(label,) if label in files else ())

    def read_labels(self, item, read):
        labels = LabelRows(item.identity, (1,))
        for line, (number, code) in iterate_rows(read(item.labels[0]), item.labels[0]):
            labels.add(parse_whole(number, str(line)), [parse_code(code, {"0": 0, "1": 1}, str(line))], str(line))
        return labels.build()
