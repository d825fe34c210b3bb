"""Servers that answer badly, late or not at all; tokens and addresses that are wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conche.ci.forge.client import Client
from conche.ci.forge.where import origin
from conche.errors import Unreachable
from conche.secret import Secret
from conche.testing.forge import FakeForge
from tests.ci.served import TOKEN, ask, stack_for
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.process

FAULTS = {
    "500": ("server-failed", 9, "as the test wanted"),
    "html": ("server-answers-no-json", 9, "Sign in to the proxy"),
    "redirect": ("server-moved", 2, "elsewhere.example.org"),
    "429": ("server-wants-a-pause", 9, "7 s"),
    "404": ("server-is-another", 9, "404"),
    "other": ("server-is-another", 9, "another product"),
    "endless": ("server-answers-no-json", 9, "more than 32 MiB"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_answer_is_told_in_words(stack: SmallStack, forge: FakeForge, fault: str) -> None:
    code, status, words = FAULTS[fault]
    forge.fault = fault

    failed = stack.invoke("ci.status", FORGEJO_TOKEN=TOKEN)

    assert failed.returncode == status
    assert f"[{code}]" in failed.stderr
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr
    assert TOKEN not in failed.stderr


@pytest.mark.parametrize("trickling", [False, True], ids=["silent", "trickling"])
def test_a_server_that_does_not_answer_in_time(trickling: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if trickling:
            threading.Thread(target=trickle, args=(server,), daemon=True).start()
        client = Client(address, Secret(TOKEN), patience=0.5)

        with pytest.raises(Unreachable) as told:
            client.server()

    assert told.value.code == "server-unreachable"
    assert told.value.message == f"The server {address} does not answer within 0.5 s."
    assert TOKEN not in str(told.value.as_json())


def test_a_file_that_trickles_in_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=trickle, args=(server,), daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.getsockname()[1]}", Secret(TOKEN), patience=0.5)

        with pytest.raises(Unreachable) as told:
            list(client.blocks("/file", size=4096))

    assert told.value.code == "server-unreachable"


def trickle(server: socket.socket) -> None:
    """Answer one blank after another, until whoever asked has gone."""
    connection, _ = server.accept()
    # It may go between the look and the next blank.
    with connection, contextlib.suppress(ConnectionError):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b" ")


def test_no_server_there(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"

    error = ask(stack_for(tmp_path, address), "ci.status")["error"]

    assert (error["code"], error["exit_code"]) == ("server-unreachable", 9)
    assert error["looked_at"] == [address]
    assert error["next"] == "correct ci.server in stack.yaml"


def test_a_server_of_the_stack_that_is_down_is_named_by_its_environment(tmp_path: Path) -> None:
    stack = stack_for(tmp_path, f"http://127.0.0.1:{free_port()}")
    stack.write("compose/dev.yaml", "services: {forge: {image: 'codeberg.org/forgejo/forgejo:15-rootless'}}\n")

    error = ask(stack, "ci.status")["error"]

    assert error["next"] == "invoke env.status --env dev    # or correct ci.server in stack.yaml"


def test_a_server_that_speaks_no_tls(stack: SmallStack, forge: FakeForge) -> None:
    stack.replace("stack.yaml", forge.address, forge.address.replace("http:", "https:"))

    assert ask(stack, "ci.status")["error"]["code"] == "server-certificate-refused"


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = folder / "certificate.pem"
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return file


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        error = ask(stack_for(tmp_path, f"https://localhost:{server.server_port}"), "ci.status")["error"]
    finally:
        server.shutdown()
        server.server_close()

    assert error["code"] == "server-certificate-refused"
    assert "SSL_CERT_FILE" in error["next"]


def test_a_token_that_the_server_does_not_know(stack: SmallStack) -> None:
    error = ask(stack, "ci.status", token="another-token")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-refused", 8)
    assert "/user/settings/applications" in error["next"]


def test_a_token_that_was_not_copied_whole_is_not_sent(stack: SmallStack, forge: FakeForge) -> None:
    error = ask(stack, "ci.status", token="0123456789…")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-refused", 8)
    assert "0123456789" not in str(error)
    assert forge.asked == []


def test_an_address_that_is_none(tmp_path: Path) -> None:
    error = ask(stack_for(tmp_path, "http://localhost:port"), "ci.status")["error"]

    assert (error["code"], error["exit_code"]) == ("server-unreachable", 9)


def test_a_token_without_rights_says_which_right_is_missing(stack: SmallStack, forge: FakeForge) -> None:
    forge.tokens["weak-token"] = "read:repository"

    error = ask(stack, "ci.rerun", token="weak-token")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-lacks-right", 8)
    assert "it lacks the scope write:repository" in error["message"]


def test_without_a_token_it_says_where_one_comes_from(stack: SmallStack, forge: FakeForge) -> None:
    error = stack.json("ci.status")["error"]

    assert (error["code"], error["exit_code"]) == ("server-token-missing", 8)
    assert f"{forge.address}/user/settings/applications" in error["next"]
    assert forge.asked == []


def test_a_repository_that_is_not_there(stack: SmallStack) -> None:
    stack.replace("stack.yaml", "team/app", "team/ap")

    assert ask(stack, "ci.status")["error"]["code"] == "no-such-repository"


@pytest.mark.parametrize(
    ("remote", "place"),
    [
        ("http://localhost:3000/team/app.git", ("http://localhost:3000", "team/app")),
        ("https://git.example.org/below/team/app", ("https://git.example.org/below", "team/app")),
        ("ssh://git@git.example.org:2222/team/app.git", ("https://git.example.org", "team/app")),
        ("git@git.example.org:team/app.git", ("https://git.example.org", "team/app")),
        ("http://git.example.org:port/team/app.git", None),
        ("http://[::1/team/app.git", None),
        ("/srv/git/app.git", None),
        ("https://git.example.org/app", None),
        ("", None),
    ],
)
def test_the_server_is_found_by_gits_origin(remote: str, place: tuple[str, str] | None) -> None:
    assert origin(remote) == place


def test_without_server_and_origin_it_says_what_to_set(stack: SmallStack, forge: FakeForge) -> None:
    stack.replace("stack.yaml", f"server: '{forge.address}', ", "")
    subprocess.run(["git", "-C", str(stack.folder), "init", "--quiet"], check=True)

    assert ask(stack, "ci.status")["error"]["code"] == "server-unknown"

    subprocess.run(
        ["git", "-C", str(stack.folder), "remote", "add", "origin", f"{forge.address}/team/app.git"], check=True
    )
    assert [run["number"] for run in ask(stack, "ci.status")["value"]] == [7, 6]
