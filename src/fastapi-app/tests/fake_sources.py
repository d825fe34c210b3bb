"""REE, AEMET and OpenWeatherMap on one local server, in the shapes, units and encodings of the real ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from urllib.parse import parse_qs, urlsplit

from serving import Silent, serving

AEMET_KEY, OWM_KEY = "aemet-key-of-the-tests", "owm-key-of-the-tests"
REE_PATH = "/es/datos/mercados/precios-mercados-tiempo-real"
AEMET_PATH = "/opendata/api/observacion/convencional/datos/estacion/5279X"
OBSERVATIONS_PATH = "/opendata/sh/0a1b2c3d"
OWM_PATH = "/data/2.5/weather"


@dataclass
class Call:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class FakeSources:
    """Answers by path, to be changed by a test; every call is kept."""

    url: str = ""
    answers: dict[str, tuple[int, bytes, str]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    statuses_before: list[int] = field(default_factory=list)
    arrived: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)

    def say(self, path: str, body: object, status: int = 200, encoding: str = "utf-8") -> None:
        text = json.dumps(body, ensure_ascii=False).encode(encoding)
        self.answers[path] = (status, text, f"application/json;charset={encoding}")

    def calls_of(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def say_what_the_real_ones_say(self) -> None:
        hours = [
            {"value": 100.0 + hour, "percentage": 0.5, "datetime": f"2026-07-26T{hour:02}:00:00.000+02:00"}
            for hour in range(24)
        ]
        spot = [{"value": 1.5, "datetime": "2026-07-26T00:15:00.000+02:00"}]
        pvpc = {"type": "PVPC", "id": "1001", "attributes": {"title": "PVPC", "values": hours}}
        market = {"type": "Precio mercado spot", "id": "600", "attributes": {"values": spot}}
        self.say(REE_PATH, {"data": {"type": "Precios"}, "included": [market, pvpc]})
        ticket = {"descripcion": "éxito", "estado": 200, "datos": f"{self.url}{OBSERVATIONS_PATH}"}
        self.say(AEMET_PATH, ticket, encoding="iso-8859-15")
        observation = {"idema": "5279X", "ubi": "LINARES (VOR) Ñ", "fint": "2026-07-26T10:00:00", "ta": 31.4}
        rest = {"hr": 24.0, "vv": 3.2, "dv": 250.0, "prec": 0.0}
        self.say(OBSERVATIONS_PATH, [observation | rest], encoding="iso-8859-15")
        main, wind = {"temp": 30.1, "pressure": 1014, "humidity": 26}, {"speed": 4.1, "deg": 240}
        self.say(OWM_PATH, {"main": main, "wind": wind, "dt": 1785060000, "id": 2515271, "cod": 200})


@contextmanager
def running_sources(*, held: bool = False) -> Iterator[FakeSources]:
    """The three APIs. When `held`, every answer waits until the test sets `released`."""
    sources = FakeSources()

    class Calls(Silent):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            sources.calls.append(Call(address.path, query, {k.lower(): v for k, v in self.headers.items()}))
            sources.arrived.set()
            if held:
                sources.released.wait()
            if sources.statuses_before:
                self.answer(sources.statuses_before.pop(0))
            else:
                self.answer(*sources.answers.get(address.path, (404, b"{}", "application/json")))

    with serving(Calls) as sources.url:
        sources.say_what_the_real_ones_say()
        try:
            yield sources
        finally:
            sources.released.set()
