"""What only InfluxDB can do wrong: tokens. All but the tests of an outage also run against a real server."""

import httpx2 as httpx
import pytest
from conftest import START, TEN_DAYS, InfluxServer
from fake_influx import BUCKET, ORG, READER, WRITER, FakeInflux

from app.errors import ConfigurationError, StoreUnavailable
from app.readings import Price
from app.store.influx import ReadOnlyInfluxStore

PRICE = Price(timestamp=START, price_eur_mwh=80.0, provider="ree")


def write_line(server: InfluxServer, line: str) -> None:
    httpx.post(
        f"{server.url}/api/v2/write",
        params={"org": server.org, "bucket": server.bucket, "precision": "ns"},
        headers={"Authorization": f"Token {server.writer}"},
        content=line,
    ).raise_for_status()


def test_the_probe_tells_a_writing_token_from_a_reading_one(influx_server: InfluxServer) -> None:
    assert influx_server.store(influx_server.writer).can_write()
    assert not influx_server.store(influx_server.reader).can_write()


def test_the_probe_writes_nothing(influx_server: InfluxServer) -> None:
    store = influx_server.store()
    store.write([PRICE])
    store.can_write()
    assert store.prices(TEN_DAYS) == [PRICE]
    assert store.weather(TEN_DAYS) == []


def test_the_probe_does_not_guess_when_the_answer_tells_neither(influx_server: InfluxServer) -> None:
    with pytest.raises(StoreUnavailable, match="answered 401 to an empty write"):
        influx_server.store("wrong").can_write()
    with pytest.raises(StoreUnavailable, match="answered 404 to an empty write"):
        influx_server.store(influx_server.reader, "no_such_bucket").can_write()


def test_a_store_whose_token_is_refused_is_not_ready_although_the_server_answers_pings(
    influx_server: InfluxServer,
) -> None:
    with pytest.raises(StoreUnavailable, match="401"):
        influx_server.store("wrong").check()


def test_a_reading_token_reads_and_its_writes_are_refused(influx_server: InfluxServer) -> None:
    influx_server.store().write([PRICE])
    reader = influx_server.store(influx_server.reader)
    assert reader.prices(TEN_DAYS) == [PRICE]
    with pytest.raises(StoreUnavailable, match="403"):
        reader.write([PRICE])


def test_points_of_the_original_application_do_not_disturb_reading(influx_server: InfluxServer) -> None:
    stamp = int(START.timestamp()) * 10**9
    write_line(
        influx_server, f"energy_prices,provider=ree,market_type=pvpc renewable_percentage=41.5 {stamp}"
    )
    assert influx_server.store().prices(TEN_DAYS) == []


def test_no_error_of_the_store_holds_the_token(influx_server: InfluxServer) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        influx_server.store("secret-but-wrong").write([PRICE])
    assert "secret-but-wrong" not in f"{caught.value!r} {caught.value.__cause__}"


def test_development_refuses_a_writing_token(influx_server: InfluxServer) -> None:
    with pytest.raises(ConfigurationError, match="INFLUXDB_TOKEN can write"):
        ReadOnlyInfluxStore.guarding(influx_server.store())


def test_development_never_writes_even_where_the_server_would_let_it(influx_server: InfluxServer) -> None:
    writer = influx_server.store()
    with pytest.raises(StoreUnavailable, match="may not write"):
        ReadOnlyInfluxStore(writer).write([PRICE])
    assert writer.prices(TEN_DAYS) == []


def test_a_token_found_to_write_after_the_start_keeps_development_unready(influx: FakeInflux) -> None:
    influx.up = False
    store = ReadOnlyInfluxStore.guarding(InfluxServer(influx.url).store(WRITER))
    influx.up = True
    with pytest.raises(StoreUnavailable, match="can write"):
        store.check()


def test_development_becomes_ready_once_the_server_is_back_and_the_token_proven(influx: FakeInflux) -> None:
    influx.up = False
    store = ReadOnlyInfluxStore.guarding(InfluxServer(influx.url).store(READER))
    with pytest.raises(StoreUnavailable):
        store.check()
    influx.up = True
    store.check()
    assert store.prices(TEN_DAYS) == []


@pytest.mark.parametrize(("path", "status"), [("/api/v2/write", 400), ("/api/v2/delete", 404)])
def test_the_fake_refuses_what_it_does_not_speak(influx: FakeInflux, path: str, status: int) -> None:
    answer = httpx.post(
        f"{influx.url}{path}",
        params={"org": ORG, "bucket": BUCKET},
        headers={"Authorization": f"Token {WRITER}"},
        content=b"no line protocol",
    )
    assert answer.status_code == status
