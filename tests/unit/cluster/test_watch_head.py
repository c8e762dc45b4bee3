"""A head that does not answer is named before Ray ends the process."""

from __future__ import annotations

import logging
import socket
import time

from facscale.cluster.ray import watch_head
from waiting import wait_for


def test_a_lost_head_is_told_once_and_so_is_its_return(caplog):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with caplog.at_level(logging.WARNING), watch_head(f"127.0.0.1:{port}", every_s=0.05):
        time.sleep(0.3)
        assert caplog.text == ""
        server.close()
        wait_for(lambda: len(caplog.messages) == 1)
        time.sleep(0.3)
        assert len(caplog.messages) == 1
        assert f"the head of the Ray cluster at 127.0.0.1:{port} does not answer" in caplog.messages[0]
        with socket.create_server(("127.0.0.1", port)):
            wait_for(lambda: len(caplog.messages) == 2)
        assert caplog.messages[1].endswith("answers again")
