"""The tutorials as notebooks and as scripts: what their pages say, in the same order."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from conftest import ROOT
from doc_hooks import load_hook

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGE = """\
# A page

Some [words](other.md), [a site](https://example.org) and ![a picture](picture.png).

```sh
export A_VALUE=$(echo "4 5") B_VALUE=$PWD/b
echo $A_VALUE > out
cd sub
ls
```

1. a list

    ```python title="sub/file.py"
    def f():
        return 1
    ```

```python
print("{}")
```

```text
not run
```

```console
$ echo shown
shown
```
"""


@pytest.fixture(scope="module")
def notebooks():
    return load_hook("notebooks")


def read_sources(notebook, kind="code"):
    return [cell["source"] for cell in json.loads(notebook)["cells"] if cell["cell_type"] == kind]


def test_a_page_becomes_cells_in_its_order(notebooks):
    _, *code = read_sources(notebooks.build_notebook(PAGE))
    assert code == [
        "export('A_VALUE', '$(echo \"4 5\")')\nexport('B_VALUE', '$PWD/b')",
        "%%bash\necho $A_VALUE > out",
        "%cd sub",
        "%%bash\nls",
        "%%writefile sub/file.py\ndef f():\n    return 1",
        'print("{}")',
        "%%bash\necho shown",
    ]
    first, *others = read_sources(notebooks.build_notebook(PAGE), "markdown")
    assert first == "# A page\n\nSome words, [a site](https://example.org) and a picture."
    assert "not run" in others[-1]


def test_variables_of_a_page_are_those_of_a_shell(notebooks, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_VALUE", "")
    monkeypatch.setenv("B_VALUE", "")
    setup, export, *_ = read_sources(notebooks.build_notebook(PAGE))
    exec(f"{setup}\n{export}", {})
    assert os.environ["A_VALUE"] == "4 5"
    assert os.environ["B_VALUE"] == f"{tmp_path}/b"


def test_a_script_does_what_its_page_says_and_ends_where_something_fails(notebooks, tmp_path):
    (tmp_path / "sub").mkdir()
    page = PAGE.replace("sub/file.py", "file.py")
    command = ["bash", "-c", notebooks.build_script(page)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "out").read_text() == "4 5\n"
    assert (tmp_path / "sub" / "file.py").read_text() == "def f():\n    return 1\n"
    assert re.findall(r"### cell (\d)", done.stdout) == ["0", "1", "2", "3"]
    assert done.stdout.endswith("{}\n### cell 3\nshown\n")
    failing = page.replace("ls\n", "ls nowhere\n")
    done = subprocess.run(
        ["bash", "-c", notebooks.build_script(failing)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert done.stdout.rstrip().endswith("### cell 0")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_every_tutorial_is_a_notebook(notebooks, path):
    content = json.loads(notebooks.build_notebook(path.read_text()))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in content["cells"]]
    assert len({*names}) == len(names)
    shells = [cell["source"] for cell in content["cells"] if cell["source"].startswith("%%bash\n")]
    assert any("facscale" in source for source in shells)
    for cell in content["cells"]:
        assert {"metadata", "source", "cell_type"} <= {*cell}
        if cell["cell_type"] == "code" and not cell["source"].startswith(("%%", "%cd")):
            compile(cell["source"], path.name, "exec")
    for source in shells:
        subprocess.run(["bash", "-n", "-c", source.removeprefix("%%bash\n")], check=True)
