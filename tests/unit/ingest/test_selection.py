"""Which videos of a source are selected."""

from __future__ import annotations

from itertools import pairwise

import pytest

from facscale.data import DataError
from facscale.ingest.items import Item
from facscale.ingest.selection import match_people, select_items
from facscale.spec.pipelines import Source

ITEMS = [
    Item(f"id{person:05d}", f"video{video}", f"{part}/{utterance}", (f"{person}/{video}/{utterance}.mp4",), split=split)
    for person, part, split in ((1, "dev", "train"), (2, "dev", "train"), (3, "test", "test"), (12, "dev", "train"))
    for video in range(4)
    for utterance in range(2)
]


def select(**options):
    return select_items(Source(layout="voxceleb2", root="", **options), ITEMS)


def people(items):
    return sorted({item.identity for item in items})


def test_everything_in_order_without_options():
    items, notes = select()
    assert items == tuple(sorted(ITEMS, key=lambda item: item.sort_key))
    assert notes == []


def test_people_are_included_and_excluded_by_name_pattern_or_file(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffid00001\r\nid00099\n\n")
    items, notes = select(include=("id0000*",), exclude=("id00002",))
    assert people(items) == ["id00001", "id00003"]
    assert notes == ["selected: 16 of 32 videos of the source"]
    items, notes = select(include=(f"@{tmp_path}/list.txt",))
    assert people(items) == ["id00001"]
    assert notes[0] == "source.include: not in the source: 1 of 2 names, such as id00099"
    with pytest.raises(DataError, match=r"missing\.txt: the list of identities cannot be read"):
        select(exclude=(f"@{tmp_path}/missing.txt",))
    with pytest.raises(DataError, match=r"source\.include and source\.exclude leave none of 4 people"):
        select(include=("nobody",))


def test_a_number_of_people_or_videos_is_part_of_every_larger_one():
    chosen = [set(people(select(identities=count)[0])) for count in range(1, 5)]
    assert [len(names) for names in chosen] == [1, 2, 3, 4]
    assert all(few < more for few, more in pairwise(chosen))
    few, more = (select(videos_per_identity=count)[0] for count in (1, 3))
    assert len(few) == 4 * 2  # all utterances of one video
    assert len(more) == 4 * 3 * 2
    assert set(few) < set(more)
    assert len(select(videos_per_identity=1, identities=2)[0]) == 4
    assert len({item.video for item in few}) > 1  # not the first of everybody
    clips = select(videos_per_identity=2, clips_per_video=1)[0]
    assert len(clips) == len({(item.identity, item.video) for item in clips}) == 4 * 2
    assert set(clips) < set(select(videos_per_identity=2)[0])
    assert len({item.part for item in clips}) > 1


def test_a_part_of_the_split_is_selected():
    assert people(select(parts=("test",))[0]) == ["id00003"]
    with pytest.raises(DataError, match="no video is in validation; the parts in this source are: test, train"):
        select(parts=("validation",))


def test_people_in_two_unicode_spellings_are_joined():
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    items = [Item(name, name, "", (f"{name}.mp4",)) for name in (composed, decomposed, "Zo\u0308e")]
    selected, notes = select_items(Source(layout="videos", root=""), items)
    assert people(selected) == [composed, "Zo\u0308e"]
    assert notes == [f"people with folders in two spellings, joined: 1, such as {composed}"]


def test_people_of_a_long_list_are_selected():
    many = [Item(f"id{number:05d}", "v", "", (f"{number}.mp4",)) for number in range(6000)]
    names = tuple(item.identity for item in many[::2])
    selected, _ = select_items(Source(layout="voxceleb2", root="", include=names), many)
    assert len(selected) == 3000


def test_people_are_selected_in_either_unicode_form():
    decomposed, composed = "Jose\u0301", "Jos\u00e9"
    assert match_people([decomposed, "anna"], [composed, "bob"]) == ({decomposed}, ["bob"])
    assert match_people([composed, decomposed], ["Jos\u00e9*"]) == ({composed, decomposed}, [])
