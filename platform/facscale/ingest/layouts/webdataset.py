"""WebDataset: tar files in which 000001.jpg and 000001.json belong together, by the name up to its first dot.

The fields of a .json file are those of `ingest/records.py` (identity, video, frame, split, AUs as AU1 or in a mapping
`au`); a .cls file is the field cls. With `source.levels` 3, 2 or 1, identity, video and frame are taken from the names in
the tar files instead: IDENTITY/VIDEO/TRACK/FRAME.jpg, as in the layout crops.

Tar files are read once to be indexed (by the workers, and in full, if they lie in a bucket), and again image by image. They
must not be compressed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from facscale.ingest.containers import Member, index_tar
from facscale.ingest.items import IMAGE_SUFFIXES, Files, get_suffix, open_root
from facscale.ingest.layouts.crops import MAX_LEVELS, NUMBER
from facscale.ingest.records import Record, RecordConfig, RecordLayout, flatten_fields

SIDECARS = frozenset({".json", ".cls"})


class WebDatasetConfig(RecordConfig):
    """Options of the layout webdataset."""

    levels: Annotated[int, Field(ge=0, le=MAX_LEVELS)] = 0


class WebDataset(RecordLayout):
    """Images in tar files, with a JSON file beside each."""

    Config = WebDatasetConfig

    def list_containers(self, files: Files) -> Sequence[str]:
        """List the tar files."""
        tars = [name for name in files if get_suffix(name) == ".tar"]
        if not tars:
            compressed = [name for name in files if name.lower().endswith((".tar.gz", ".tgz", ".tar.zst"))]
            hint = f"; {compressed[0]} is compressed: unpack it to a plain tar file first" if compressed else ""
            raise ValueError(f"there is no tar file{hint}")
        return tars

    def read_container(self, root: str, name: str) -> Sequence[Record]:
        """Index a tar file."""
        system, base = open_root(root)
        return list(self._group(list(index_tar(system, base, name, sidecars=SIDECARS))))

    def _group(self, members: Sequence[Member]) -> Iterator[Record]:
        images: dict[str, Member] = {}
        fields: dict[str, dict[str, Any]] = {}
        for member in members:
            folder, slash, file = member.name.rpartition("/")
            stem, _, extension = file.partition(".")
            key, suffix = f"{folder}{slash}{stem}", get_suffix(member.name)
            if suffix in IMAGE_SUFFIXES:
                images.setdefault(key, member)
            elif member.content is not None and suffix == ".cls":
                fields.setdefault(key, {})["cls"] = member.content.decode(errors="replace").strip()
            elif member.content is not None and extension.lower() == "json":
                fields.setdefault(key, {}).update(_parse_json(member))
        for key, member in images.items():
            yield Record(member.place, {**fields.get(key, {}), **self._read_name(key)}, member.place)

    def _read_name(self, key: str) -> dict[str, str]:
        levels = self.config.levels
        *above, stem = key.split("/")
        numbers = NUMBER.findall(stem)
        if not levels:
            return {}
        if len(above) < levels or not numbers:
            raise ValueError(f"{key}: there are no {levels} folders and a number; set source.levels")
        identity, *rest = above[-levels:]
        return {
            self.config.identity: identity,
            self.config.video: "/".join(rest) or identity,
            self.config.frame: numbers[-1],
        }


def _parse_json(member: Member) -> dict[str, Any]:
    try:
        value = json.loads(member.content or b"")
    except ValueError as error:
        raise ValueError(f"{member.place}: not JSON ({error})") from None
    if isinstance(value, dict):
        return flatten_fields(value)
    raise ValueError(f"{member.place}: not a JSON object of fields")
