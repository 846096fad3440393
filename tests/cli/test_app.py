"""The app shows the dashboard that its flags ask for, and what it cannot show is one line."""

import socket

from actor_lens import cli
from actor_lens.cli.app_command import make_dashboard


def parsed(*words):
    settings = vars(cli._parser().parse_args(["app", *words]))
    return {name: value for name, value in settings.items() if name != "run_command"}


def test_flags_reach_the_dashboard():
    dashboard = make_dashboard(parsed("--layer", "2", "--per-label", "12"))
    state = dashboard.exploration
    assert (state.model.name, dashboard.layer) == ("toy", 2)
    assert set(state.train.counts().values()) == {12}


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["app", "--port", str(port), "--no-browser"]) == cli.EXIT_USER_ERROR
    assert f"port {port}" in capsys.readouterr().err
