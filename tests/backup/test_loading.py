"""Whether a dump can be loaded over what is there, by command lines and by the dump itself."""

from __future__ import annotations

import random

import pytest

from conche.backup.loading import Call, Examined, call_of, complaints

STRICT = ["psql", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-U", "app", "app"]
CLEAN = ["pg_dump", "--clean", "--if-exists", "-U", "app", "app"]


@pytest.mark.parametrize(
    ("dump", "restore"),
    [
        (CLEAN, STRICT),
        (["pg_dump", "-cU", "app", "--if-exists", "app"], ["psql", "-1qvON_ERROR_STOP=1", "app"]),
        (["/usr/bin/pg_dump", "-c", "--if-exists"], ["gosu", "postgres", "psql", "-1", "--set=ON_ERROR_STOP=on"]),
        (
            ["sh", "-c", 'exec pg_dump -c --if-exists -U "$POSTGRES_USER"'],
            ["env", "PGUSER=app", "psql", "-1", "--set", "ON_ERROR_STOP=1"],
        ),
        (["pg_dump", "-C", "-c", "--if-exists", "app"], ["psql", "-v", "ON_ERROR_STOP=1", "postgres"]),
        (["pg_dump", "-Fc", "app"], ["pg_restore", "-c", "--if-exists", "-1", "-d", "app"]),
        (["pg_dump", "--format", "custom", "app"], ["pg_restore", "--clean", "--if-exists", "-e", "--dbname=app"]),
        (["pg_dumpall", "--clean", "--if-exists"], ["psql", "postgres"]),
        (["mysqldump", "-uroot", "app"], ["mysql", "-uroot", "app"]),
        (["mariadb-dump", "--skip-opt", "--add-drop-table", "app"], ["mariadb", "app"]),
        (["sqlite3", "/data/db", ".dump"], ["sh", "-c", "rm -f /data/n && sqlite3 /data/n && mv /data/n /data/db"]),
        (["cat", "/data/journal"], ["sh", "-c", "cat > /data/journal"]),
    ],
)
def test_what_can_replace_is_let_through(dump: list[str], restore: list[str]) -> None:
    assert complaints(dump, restore) == []


@pytest.mark.parametrize(
    ("dump", "restore"),
    [
        (["pg_dump", "app"], ["sh", "-c", "dropdb app; createdb app; psql app"]),
        (["sh", "-c", "pg_dump app | sed s/a/b/"], STRICT),
        (["pg_dump", "app"], ["sh", "-c", "psql `name`"]),
        (["pg_dump", "app"], ["sh", "-c", "'"]),
        (["pg_dump", "app"], ["sh", "/restore.sh"]),
        (["pg_dump", "-a", "app"], ["psql", "-c", "copy t from stdin", "app"]),
        (["pg_dump", "app"], []),
    ],
)
def test_a_script_may_do_more_than_can_be_seen(dump: list[str], restore: list[str]) -> None:
    assert complaints(dump, restore) == []


@pytest.mark.parametrize(
    ("dump", "restore", "helps"),
    [
        (["pg_dump", "-h", "/tmp", "-U", "app", "app"], STRICT, ["--clean --if-exists"]),
        (["pg_dump", "-c", "app"], STRICT, ["--if-exists"]),
        (["pg_dump", "-U", "-c", "app"], STRICT, ["--clean --if-exists"]),
        (["pg_dump", "-ac", "--if-exists", "app"], STRICT, ["--data-only"]),
        (["pg_dump", "-Fc", "app"], STRICT, ["pg_restore"]),
        (CLEAN, ["psql", "app"], ["ON_ERROR_STOP=1", "--single-transaction"]),
        (CLEAN, ["psql", "-1", "-v", "ON_ERROR_STOP=0", "app"], ["ON_ERROR_STOP=1"]),
        (CLEAN, ["sh", "-c", 'psql -f - "$DB"'], ["ON_ERROR_STOP=1", "--single-transaction"]),
        (["cat", "/dump.sql"], ["psql", "app"], ["ON_ERROR_STOP=1", "--single-transaction"]),
        (["pg_dumpall"], ["psql", "postgres"], ["--clean --if-exists"]),
        (CLEAN, ["pg_restore", "-c", "--if-exists", "-1", "-d", "app"], ["-Fc"]),
        (["pg_dump", "-Fc"], ["pg_restore", "-c", "--if-exists", "-1"], ["-d DB"]),
        (["pg_dump", "-Ft"], ["pg_restore", "-d", "app"], ["--clean --if-exists", "--single-transaction"]),
        (["mysqldump", "--compact", "app"], ["mysql", "app"], ["--add-drop-table"]),
        (["mysqldump", "-t", "app"], ["mysql", "--force", "app"], ["--force", "--no-create-info"]),
        (["sqlite3", "/data/db", ".dump"], ["sqlite3", "/data/db"], ["-bail"]),
    ],
)
def test_what_cannot_is_told_with_the_options_that_can(dump: list[str], restore: list[str], helps: list[str]) -> None:
    found = complaints(dump, restore)

    assert len(found) == len(helps)
    assert [help_ in said for help_, said in zip(helps, found, strict=True)] == [True] * len(helps)


def test_options_are_read_as_getopt_does() -> None:
    assert call_of(["psql", "-qAt", "-U", "app", "--set=x=1", "--file", "-", "-v1", "db"]) == Call(
        "psql",
        (("-q", ""), ("-A", ""), ("-t", ""), ("-U", "app"), ("--set", "x=1"), ("--file", "-"), ("-v", "1"), ("db", "")),
    )


HEAD = (
    b"--\n-- PostgreSQL database dump\n--\n\nSET lock_timeout = 0;\nSELECT pg_catalog.set_config('x', '', false);\n\n"
)
DROPS = b"ALTER TABLE IF EXISTS ONLY public.log DROP CONSTRAINT IF EXISTS log_pkey;\nDROP TABLE IF EXISTS public.log;\n"
MAKES = b"CREATE TABLE public.log (\n    x text\n);\n\nCOPY public.log (x) FROM stdin;\nDROP TABLE in a row\n\\.\n"
END = b"--\n-- PostgreSQL database dump complete\n--\n\n"
MYSQL = b"-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB\n--\n"


def examined(dump: bytes, pieces: int = 1) -> Examined:
    """What is seen of a dump that comes in pieces of any size."""
    found, cuts = Examined(), sorted(random.Random(pieces).sample(range(len(dump) + 1), pieces - 1))
    for start, end in zip([0, *cuts], [*cuts, len(dump)], strict=True):
        found.feed(dump[start:end])
    return found


@pytest.mark.parametrize("pieces", [1, 2, 7, 60])
@pytest.mark.parametrize(
    ("dump", "restore", "said"),
    [
        (HEAD + DROPS + MAKES + END, STRICT, ""),
        (HEAD + MAKES + END, STRICT, "begins with CREATE TABLE and drops nothing"),
        (HEAD + MAKES[MAKES.index(b"COPY") :] + END, STRICT, "begins with COPY and drops nothing"),
        (HEAD + b"ALTER TABLE ONLY public.log DROP CONSTRAINT k;\n" + MAKES + END, STRICT, ""),
        (HEAD + END, STRICT, ""),
        (HEAD + MAKES + END, ["sh", "-c", "dropdb app; createdb app; psql app"], ""),
        (HEAD + DROPS + MAKES, ["sh", "-c", "dropdb app; createdb app; psql app"], "it is incomplete"),
        (HEAD + DROPS + MAKES[:60], STRICT, "it is incomplete"),
        (HEAD + DROPS + END, ["pg_restore", "-d", "app"], "pg_restore needs"),
        (b"PGDMP\x01\x0e" + bytes(5000), ["pg_restore", "-d", "app"], ""),
        (b"PGDMP\x01\x0e" + bytes(5000), STRICT, "psql cannot read"),
        (b"toc.dat" + bytes(5000), ["pg_restore", "-d", "app"], ""),
        (b"toc.dat" + bytes(5000), STRICT, "psql cannot read"),
        (MYSQL + b"DROP TABLE IF EXISTS `t`;\nCREATE TABLE `t` (x int);\n-- Dump completed on x\n", ["mysql"], ""),
        (MYSQL + b"CREATE TABLE `t` (x int);\n-- Dump completed on x\n", ["mysql"], "begins with CREATE TABLE"),
        (MYSQL + b"DROP TABLE IF EXISTS `t`;\nCREATE TA", ["mysql"], "it is incomplete"),
        (b"anything at all", ["sh", "-c", "cat > /x"], ""),
        (b"", ["sh", "-c", "cat > /x"], ""),
    ],
)
def test_a_dump_tells_whether_it_can_replace(dump: bytes, restore: list[str], said: str, pieces: int) -> None:
    problem = examined(dump, min(pieces, len(dump) + 1)).problem(restore)

    assert (said in problem, bool(problem)) == (True, bool(said))


def test_a_long_dump_is_judged_by_its_beginning_and_its_end_wherever_they_are() -> None:
    comment = b"-- a comment\n" * 50_000
    rows = b"".join(b"INSERT INTO t VALUES (%d);\n" % number for number in range(20_000))

    assert examined(HEAD + comment + DROPS + MAKES + rows + END, 30).problem(STRICT) == ""
    assert "CREATE TABLE" in examined(HEAD + comment + MAKES + rows + END, 30).problem(STRICT)
    assert "incomplete" in examined(HEAD + DROPS + MAKES + rows, 30).problem(STRICT)
