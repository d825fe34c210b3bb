"""The kernel's list of mounts."""

from __future__ import annotations

from pathlib import Path

from conche.mountinfo import mounted, types

TABLE = r"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:2 / /mnt/my\040disk rw,noatime shared:1 - ext4 /dev/sdb1 rw
24 22 8:1 /srv /srv/tab\011and\134\012line rw - ext4 /dev/sda1 rw
25 22 8:1 / /mnt/over rw - ext4 /dev/sda1 rw
26 25 0:5 / /mnt/over rw shared:2 master:1 - tmpfs none rw

"""


def test_mount_points_and_types_are_read_as_the_kernel_writes_them() -> None:
    assert types(TABLE) == {
        Path("/"): "ext4",
        Path("/mnt/my disk"): "ext4",
        Path("/srv/tab\tand\\\nline"): "ext4",
        Path("/mnt/over"): "tmpfs",
    }


def test_this_process_has_proc_where_it_reads_the_list() -> None:
    assert mounted()[Path("/proc")] == "proc"
