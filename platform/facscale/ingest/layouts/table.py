"""Any folder of images with a table of labels: a CSV (or TSV) file with a header and a row for each image.

`source.table` is its name below the root, `source.image` the column with the images' paths, which are relative to the
root, or to `source.folder`. The other columns are described in `ingest/records.py`: identity, video, frame, split, AUs and
an expression.
"""

from __future__ import annotations

from collections.abc import Sequence

from facscale.ingest.items import Files, read_bytes
from facscale.ingest.label_files import iterate_rows
from facscale.ingest.records import Record, RecordConfig, RecordLayout


class TableConfig(RecordConfig):
    """Options of the layout table."""

    table: str = "labels.csv"
    image: str = "image"
    folder: str = ""


class Table(RecordLayout):
    """Images that a table lists."""

    Config = TableConfig

    def list_records(self, files: Files, root: str) -> Sequence[Record]:
        """List a record for each row."""
        name, config = self.config.table, self.config
        if name not in files:
            raise ValueError(f"there is no table {name}; set source.table to its name below source.root")
        delimiter = "\t" if name.lower().endswith((".tsv", ".tab")) else ","
        rows = iterate_rows(read_bytes(root, name), name, delimiter=delimiter)
        line, header = next(rows, (1, [""]))
        if config.image not in header:
            raise ValueError(
                f"{name}, line {line}: there is no column {config.image!r}; there are: {', '.join(header)[:200]}; "
                "set source.image"
            )
        if twice := sorted({column for column in header if column and header.count(column) > 1}):
            raise ValueError(f"{name}, line {line}: the column {twice[0]!r} occurs twice; remove one of them")
        prefix = f"{config.folder.strip('/')}/" if config.folder else ""
        records = []
        for number, cells in rows:
            place = f"{name}, line {number}"
            if len(cells) != len(header):
                raise ValueError(f"{place}: {len(cells)} values under a header of {len(header)}")
            fields = dict(zip(header, cells, strict=True))
            file = fields.pop(config.image).removeprefix("./")
            records.append(Record(f"{prefix}{file}", fields, place))
        return records
