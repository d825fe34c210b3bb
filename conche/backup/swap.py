"""Exchanges the content of a volume with what is staged inside it, by a script that can be run again at any point."""

from __future__ import annotations

from dataclasses import dataclass

from conche.engine import volumes
from conche.engine.connection import Engine

__all__ = ["Swap"]

LOOK = """
look() {
  if tar --acls --xattrs --version 2>/dev/null | grep -q GNU; then
    tar --acls --xattrs --xattrs-include='*' --numeric-owner --no-recursion -C "$1" -cf - . |
      tar --acls --xattrs --xattrs-include='*' --numeric-owner -C "$2" -xpf - || :
  else
    chown "$(stat -c %u:%g "$1")" "$2" && chmod "$(stat -c %a "$1")" "$2" || :
  fi
}
"""
"""Gives one folder the owner, mode, attributes and ACL of another."""

PREPARE = f"""{LOOK}
mkdir -p ".restore-$1"
look . ".restore-$1"
: > ".restore-$1.look"
"""
"""Makes the folder to unpack into, as the volume's own folder is, unless what is unpacked says otherwise.

`.restore-ID.look` says that it is; versions before made one that was not.
"""

FORWARD = f"""{LOOK}
if [ -n "$2" ] && [ ! -e ".restore-$1" ] && [ ! -e ".pre-restore-$1" ]; then
  [ ! -e ".pre-restore-$2.look" ] || mv ".pre-restore-$2.look" ".restore-$1.look"
  mv ".pre-restore-$2" ".restore-$1"
fi
if [ -d ".restore-$1" ] && [ ! -e ".restore-$1.moving" ]; then
  mkdir -p ".pre-restore-$1"
  if [ -e ".restore-$1.look" ]; then
    look . ".pre-restore-$1"
    : > ".pre-restore-$1.look"
  fi
  for f in ./* ./.[!.]* ./..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    case "$f" in ./.restore-* | ./.pre-restore-*) continue ;; esac
    mv "$f" ".pre-restore-$1/"
  done
  : > ".restore-$1.moving"
fi
if [ -d ".restore-$1" ]; then
  for f in ".restore-$1"/* ".restore-$1"/.[!.]* ".restore-$1"/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    mv "$f" ./
  done
  [ ! -e ".restore-$1.look" ] || look ".restore-$1" .
  rmdir ".restore-$1"
fi
rm -f ".restore-$1.look" ".restore-$1.moving"
"""
"""Replaces a volume's content by what is staged in `.restore-ID`; can be run again wherever it was interrupted.

With a second number, by what the restore with that number has put aside.
"""

BACK = f"""{LOOK}
if [ -d ".pre-restore-$1" ]; then
  if [ -e ".restore-$1.moving" ] || [ ! -d ".restore-$1" ]; then
    mkdir -p ".restore-$1"
    if [ -e ".pre-restore-$1.look" ]; then
      look . ".restore-$1"
      : > ".restore-$1.look"
    fi
    : > ".restore-$1.moving"
    for f in ./* ./.[!.]* ./..?*; do
      [ -e "$f" ] || [ -L "$f" ] || continue
      case "$f" in ./.restore-* | ./.pre-restore-*) continue ;; esac
      mv "$f" ".restore-$1/"
    done
    rm -f ".restore-$1.moving"
  fi
  for f in ".pre-restore-$1"/* ".pre-restore-$1"/.[!.]* ".pre-restore-$1"/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    mv "$f" ./
  done
  [ ! -e ".pre-restore-$1.look" ] || look ".pre-restore-$1" .
  rmdir ".pre-restore-$1"
fi
rm -f ".pre-restore-$1.look" ".restore-$1.moving"
if [ -n "$2" ] && [ -d ".restore-$1" ]; then
  [ ! -e ".restore-$1.look" ] || mv ".restore-$1.look" ".pre-restore-$2.look"
  mv ".restore-$1" ".pre-restore-$2"
fi
rm -rf ".restore-$1" ".restore-$1.look"
"""
"""Takes `FORWARD` back, from wherever it was interrupted."""

FORGET = 'rm -rf ".pre-restore-$1" ".pre-restore-$1.look"'

HOLDS = '! [ -d ".pre-restore-$1" ] || echo yes'


@dataclass(frozen=True)
class Swap:
    """A volume whose content is exchanged with what is staged inside it."""

    engine: str | None
    volume: str

    def prepare(self, number: str) -> None:
        """Make the folder in the volume into which a restore unpacks."""
        volumes.run_beside(Engine(self.engine), self.volume, PREPARE, [number])

    def forward(self, number: str, again: str = "") -> None:
        """Exchange the two, from wherever an earlier attempt was interrupted."""
        volumes.run_beside(Engine(self.engine), self.volume, FORWARD, [number, again])

    def back(self, number: str, again: str = "") -> None:
        """Take the exchange back; also removes what is only staged, unless an earlier restore had put it aside."""
        volumes.run_beside(Engine(self.engine), self.volume, BACK, [number, again])

    def holds(self, number: str) -> bool:
        """Return whether the volume has what the restore with this number put aside."""
        engine = Engine(self.engine)
        return volumes.exists(engine, self.volume) and bool(
            volumes.run_beside(engine, self.volume, HOLDS, [number]).strip()
        )

    def forget(self, number: str) -> None:
        """Delete what the restore with this number put aside."""
        volumes.run_beside(Engine(self.engine), self.volume, FORGET, [number])
