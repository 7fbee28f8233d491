"""Who is answered, with which headers, and what is said where the demo cannot be served."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

pytest.importorskip("gradio")

import gradio as gr

from longformer_plus.cli import main
from longformer_plus.demo import serving


def get(url: str, host: str | None = None, data: bytes | None = None) -> Any:
    request = urllib.request.Request(url, data, headers={} if host is None else {"Host": host})
    return urllib.request.urlopen(request)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:7860", "[::1]:7860", "192.168.0.7"])
def test_own_names_and_addresses_are_answered(url: str, host: str) -> None:
    assert get(url, host).status == 200


@pytest.mark.parametrize("path", ["", "gradio_api/info", "health"])
def test_foreign_names_are_refused(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(url + path, "rebound.example:7860")
    assert error.value.code == 421
    assert "--allowed-host" in error.value.read().decode()


def test_questions_under_foreign_names_are_refused(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(f"{url}gradio_api/component_server/", "rebound.example:7860", b"{}")
    assert error.value.code == 421


def test_named_hosts_are_allowed() -> None:
    guard = serving.HostGuard(lambda *_: pytest.fail("called"), ["demo.example"])  # type: ignore[arg-type]
    assert guard._is_allowed("Demo.example:443")
    assert not guard._is_allowed("other.example")
    assert not guard._is_allowed("")
    assert serving.HostGuard(guard.app, ["*"])._is_allowed("other.example")


def test_the_page_may_load_nothing_from_elsewhere(url: str) -> None:
    headers = get(url).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_health_address_answers(url: str) -> None:
    assert json.load(get(url + "health")) == {"status": "ok"}


def test_monitoring_is_off(url: str) -> None:
    for path in ("monitoring", "monitoring/summary"):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(url + path)
        assert error.value.code == 403


def test_a_taken_port_is_named_with_the_option() -> None:
    with socket.socket() as taken, gr.Blocks() as app:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"Port {port} is taken .* --port"):
            serving.serve(app, "127.0.0.1", port, prevent_thread_lock=True, quiet=True)


@pytest.mark.parametrize(
    ("host", "auth", "warned"),
    [
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", ("a", "b"), False),
    ],
)
def test_listening_at_every_network_is_warned_of(
    host: str, auth: tuple[str, str] | None, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    launched: list[dict[str, Any]] = []

    class Page:
        def launch(self, **options: Any) -> None:
            launched.append(options)

    serving.serve(Page(), host, None, auth=auth)  # type: ignore[arg-type]
    assert ("--auth" in capsys.readouterr().out) == warned
    assert launched[0]["auth"] == auth


def test_a_password_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with gr.Blocks() as app:
        gr.Markdown("Secret.")
    options = {"prevent_thread_lock": True, "quiet": True}
    serving.serve(app, "127.0.0.1", None, auth=("name", "word"), **options)
    try:
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{app.local_url}config")
        assert error.value.code == 401
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{app.local_url}gradio_api/component_server/", data=b"{}")
        assert error.value.code == 401
        assert json.load(get(f"{app.local_url}health")) == {"status": "ok"}
    finally:
        app.close()
    with pytest.raises(SystemExit):
        main(["demo", "--auth", "nameonly"])
    assert "NAME:PASSWORD" in capsys.readouterr().err
