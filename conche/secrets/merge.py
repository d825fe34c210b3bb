"""invoke secrets.merge: a git merge driver.

Two branches that change different secrets conflict in git on the MAC, and keeping either MAC breaks the file. So the
three versions are decrypted, merged name by name, and encrypted again. To enable it, once per clone:

    git config merge.sops.driver 'invoke secrets.merge %O %A %B'
    echo 'secrets.enc.yaml merge=sops' >> .gitattributes
"""

from __future__ import annotations

from collections.abc import Mapping

from conche.command import Invocation
from conche.errors import CheckFailed, Refused
from conche.files import write_atomic
from conche.outcome import Outcome
from conche.secret import Secret
from conche.vault.values import BACKUP_KEYS, open_store

__all__ = ["merge", "three_way"]


def merge(call: Invocation, base: str, ours: str, theirs: str) -> Outcome:
    """Merge `theirs` into `ours`, both derived from `base`; `ours` is written only if nothing conflicts.

    Raises:
        CheckFailed: both sides changed a secret differently.
        Refused: a side has more than texts.
    """
    store = open_store(call.stack, call.root)
    name = store.file.name
    contents = [(call.root / side).read_bytes() for side in (base, ours, theirs)]
    found = [store.examined(content) for content in contents]
    if not all(one.only_text for one in found):
        raise Refused(
            "secrets-not-mergeable",
            f"{name} has numbers, lists or values in clear, which a merge would not keep. Nothing was written.",
            next_command=f"git checkout --ours {name}\ninvoke secrets.set NAME    # for each value of the other side",
        )
    _, mine, other = found
    values = [store.decrypted(one.content, one) for one in found]
    merged, conflicts = three_way(*values)
    if conflicts:
        raise CheckFailed(
            "merge-conflict",
            f"Both sides changed {', '.join(conflicts)}. {name} is unchanged on this side.",
            next_command="\n".join(f"invoke secrets.set {one}" for one in conflicts if one in merged),
        )
    content = store.made(merged, mine.recipients, {**other.paths, **mine.paths})
    if store.decrypted(content, store.examined(content)) != merged:
        raise AssertionError("the merged file does not decrypt to what was merged")
    write_atomic(call.root / ours, content)
    changed = sorted(n for n in merged.keys() | values[1].keys() if merged.get(n) != values[1].get(n))
    # Recipients are not authenticated, so a merge does not adopt those of the other side.
    foreign = sorted({*other.recipients} ^ {*mine.recipients})
    return Outcome(
        value={"merged": changed, "recipients_differ": foreign},
        changed=bool(changed),
        lines=[f"merged: {', '.join(changed) or 'no secret'}"],
        warnings=[f"{one} differs between the sides: invoke secrets.recipients.list" for one in foreign],
    )


def _both(mine: Secret, other: Secret) -> Secret:
    """Return the keys of both sides: each has proven backups."""
    return Secret(" ".join(dict.fromkeys([*mine.reveal().split(), *other.reveal().split()])))


def three_way(
    base: Mapping[str, Secret], ours: Mapping[str, Secret], theirs: Mapping[str, Secret]
) -> tuple[dict[str, Secret], list[str]]:
    """Return the merged values, and the names that both sides changed differently."""
    merged: dict[str, Secret] = {}
    conflicts = []
    for name in dict.fromkeys((*ours, *theirs, *base)):
        before, mine, other = base.get(name), ours.get(name), theirs.get(name)
        chosen = other if mine == before else mine
        if mine not in (before, other) and other != before:
            if name == BACKUP_KEYS and mine is not None and other is not None:
                chosen = _both(mine, other)
            else:
                conflicts.append(name)
        if chosen is not None:
            merged[name] = chosen
    return merged, conflicts
