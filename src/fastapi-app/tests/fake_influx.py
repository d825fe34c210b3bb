"""The few InfluxDB 2.7 calls that the application makes, answered as 2.7.12 does.

Refusals in the order of the real server: token (401), bucket that the token cannot see (404), permission
(403), body (400). Anything not spoken here is refused loudly, never guessed.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from serving import Silent, serving

ORG, BUCKET = "chocolate_factory", "energy_data"
WRITER, READER = "writer-token-of-the-tests", "reader-token-of-the-tests"

_FLUX = re.compile(
    r'from\(bucket: "(?P<bucket>[^"]+)"\)\s+'
    r"\|> range\(start: (?P<start>\S+Z), stop: (?P<stop>\S+Z)\)\s+"
    r'\|> filter\(fn: \(r\) => r\._measurement == "(?P<measurement>\w+)" and \((?P<fields>[^)]+)\)\)\s+'
    r"\|> group\(\)\s+"
    r'\|> pivot\(rowKey: (?P<key>\[[^\]]+\]), columnKey: \["_field"\], valueColumn: "_value"\)\s+'
    r"\|> sort\(columns: (?P<order>\[[^\]]+\])\)"
)

Tags = tuple[tuple[str, str], ...]


class Refusal(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message}


@dataclass
class FakeInflux:
    """What the server holds: fields by measurement, tags and time in nanoseconds."""

    url: str = ""
    up: bool = True
    points: dict[tuple[str, Tags, int], dict[str, float]] = field(default_factory=dict)
    writes: list[bytes] = field(default_factory=list)

    def write(self, token: str, bucket: str, body: bytes) -> None:
        self._admit(token, bucket)
        if token != WRITER:
            raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "insufficient permissions for write")
        if not body:
            raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", "writing requires points")
        for line in body.decode().splitlines():
            measurement, tags, fields, time = _parse_line(line)
            self.points.setdefault((measurement, tags, time), {}).update(fields)
        self.writes.append(body)

    def query(self, token: str, flux: str) -> str:
        query = _FLUX.fullmatch(flux.strip())
        if query is None:
            raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", "the test server does not speak this Flux")
        self._admit(token, query["bucket"])
        names = re.findall(r'r\._field == "(\w+)"', query["fields"])
        key = json.loads(query["key"])
        start, stop = (datetime.fromisoformat(query[name]) for name in ("start", "stop"))
        rows: dict[tuple[object, ...], dict[str, float]] = {}
        for (measurement, tags, time), fields in self.points.items():
            moment = datetime.fromtimestamp(time / 1e9, UTC)
            present = {name: value for name, value in fields.items() if name in names}
            if measurement == query["measurement"] and start <= moment < stop and present:
                row = (moment, *(dict(tags).get(tag, "") for tag in key[1:]))
                rows.setdefault(row, {}).update(present)
        return _annotated_csv(key, dict(sorted(rows.items())))

    def _admit(self, token: str, bucket: str) -> None:
        if token not in (WRITER, READER):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", "unauthorized access")
        if bucket != BUCKET:
            raise Refusal(HTTPStatus.NOT_FOUND, "not found", f'bucket "{bucket}" not found')


def _parse_line(line: str) -> tuple[str, Tags, dict[str, float], int]:
    try:
        series, fields, time = line.split(" ")
        measurement, *tags = series.split(",")
        pairs = (pair.split("=") for pair in fields.split(","))
        values = {name: float(value) for name, value in pairs}
        labels = tuple(sorted((name, value) for name, value in (tag.split("=") for tag in tags)))
        return measurement, labels, values, int(time)
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", f"unable to parse '{line}': {error}") from error


def _annotated_csv(key: list[str], rows: dict[tuple[object, ...], dict[str, float]]) -> str:
    if not rows:
        return "\r\n"
    names = sorted({name for fields in rows.values() for name in fields})
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\r\n")
    types = ["dateTime:RFC3339", *["string"] * (len(key) - 1), *["double"] * len(names)]
    sheet.writerow(["#datatype", "string", "long", *types])
    sheet.writerow(["#group", *["false"] * (2 + len(types))])
    sheet.writerow(["#default", "_result", *[""] * (1 + len(types))])
    sheet.writerow(["", "result", "table", *key, *names])
    for (moment, *tags), fields in rows.items():
        assert isinstance(moment, datetime)
        stamp = moment.isoformat().replace("+00:00", "Z")
        sheet.writerow(["", "", 0, stamp, *tags, *(fields.get(name, "") for name in names)])
    return text.getvalue() + "\r\n"


@contextmanager
def running_influx() -> Iterator[FakeInflux]:
    """A server that holds nothing yet; with `up` set to False it answers 503 to everything."""
    influx = FakeInflux()

    class Calls(Silent):
        def do_GET(self) -> None:
            bodies = {
                "/ping": (HTTPStatus.NO_CONTENT, b""),
                "/health": (HTTPStatus.OK, b'{"name":"influxdb","status":"pass","version":"v2.7.12"}'),
                "/ready": (HTTPStatus.OK, b'{"status":"ready"}'),
            }
            status, body = bodies.get(self.path, (HTTPStatus.NOT_FOUND, b'{"code":"not found"}'))
            self.answer(status if influx.up else HTTPStatus.SERVICE_UNAVAILABLE, body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                self._post(body)
            except Refusal as refusal:
                self.answer(refusal.status, json.dumps(refusal.body).encode())

        def _post(self, body: bytes) -> None:
            address = urlsplit(self.path)
            given = {name: values[0] for name, values in parse_qs(address.query).items()}
            token = self.headers.get("Authorization", "").removeprefix("Token ")
            if not influx.up:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "down")
            if given.get("org") != ORG:
                raise Refusal(HTTPStatus.NOT_FOUND, "not found", "organization not found")
            if address.path == "/api/v2/write":
                influx.write(token, given["bucket"], body)
                self.answer(HTTPStatus.NO_CONTENT)
            elif address.path == "/api/v2/query":
                found = influx.query(token, json.loads(body)["query"])
                self.answer(HTTPStatus.OK, found.encode(), "text/csv; charset=utf-8")
            else:
                raise Refusal(HTTPStatus.NOT_FOUND, "not found", "path not found")

    with serving(Calls) as influx.url:
        yield influx
