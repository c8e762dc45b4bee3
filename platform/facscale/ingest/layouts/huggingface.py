"""Hugging Face datasets with an image column: Parquet files (as on their hub), or what `save_to_disk` writes.

`source.image` is the column with the images; the other columns are described in `ingest/records.py`. The split is taken
from the name of a file or folder (train-00000-of-00002.parquet, test/data-00000-of-00001.arrow) if there is no such column.
Class numbers are translated to the names that the data set describes. The library `datasets` is not needed. A root
hf://datasets/OWNER/NAME is read from the hub itself if the package huggingface_hub is installed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from facscale.ingest.containers import read_columns
from facscale.ingest.items import Files, get_suffix, open_root
from facscale.ingest.records import Record, RecordConfig, RecordLayout

SUFFIXES = frozenset({".parquet", ".arrow"})
SPLIT_IN_NAME = re.compile(r"(?:^|[/_-])(train|training|validation|valid|val|dev|test)(?=[/._-])", re.IGNORECASE)


class HuggingFaceConfig(RecordConfig):
    """Options of the layout huggingface."""

    image: str = "image"


class HuggingFace(RecordLayout):
    """Images in the rows of Parquet or Arrow files."""

    Config = HuggingFaceConfig

    def list_containers(self, files: Files) -> Sequence[str]:
        """List the tables."""
        tables = [name for name in files if get_suffix(name) in SUFFIXES and not name.startswith("cache-")]
        if not tables:
            raise ValueError(
                "there is no .parquet or .arrow file; set source.root to the folder that holds the data set"
            )
        return tables

    def read_container(self, root: str, name: str) -> Sequence[Record]:
        """List a record for each row."""
        system, base = open_root(root)
        rows, features = read_columns(system, base, name, image=self.config.image)
        classes = {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
        match = SPLIT_IN_NAME.search(name)
        split = {self.config.split: match[1]} if match else {}
        records = []
        for number, row in enumerate(rows):
            named = {
                column: names[row[column]]
                for column, names in classes.items()
                if isinstance(row.get(column), int) and 0 <= row[column] < len(names)
            }
            fields = {**split, **row, **named}
            records.append(Record(f"{name}::{number}::{self.config.image}", fields, f"{name}, row {number}"))
        return records
