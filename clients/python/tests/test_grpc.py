"""A stock gRPC client (C-core, by grpcio) over the Unix socket: its `:authority` is the percent-encoded path."""

from __future__ import annotations

import grpc
from conftest import eventually, log_in, log_out
from stack import Stack

CHECK = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"


def field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length = len(value)
    size = bytes([length & 0x7F | 0x80, length >> 7]) if length > 127 else bytes([length])
    return bytes([number << 3 | 2]) + size + value


def check_request(token: str) -> bytes:
    """`CheckRequest{attributes{request{http{method, headers, path}}}}`."""
    header = field(1, b"authorization") + field(2, f"Bearer {token}".encode())
    http = field(2, b"GET") + field(3, header) + field(4, b"/orders")
    return field(1, field(4, field(2, http)))


def test_stock_grpc_client_works_over_the_unix_socket(stack: Stack) -> None:
    tokens = log_in(stack)
    with grpc.insecure_channel(f"unix:{stack.verifier_settings['VERIFIER_SOCKET']}") as channel:
        health = channel.unary_unary(HEALTH)
        assert health(b"", timeout=20) == b"\x08\x01", "SERVING"
        check = channel.unary_unary(CHECK)
        # Repeated: the authority then comes from the connection's HPACK table.
        for _ in range(3):
            allowed = check(check_request(tokens["access_token"]), timeout=20)
            assert b"x-auth-subject" in allowed
        log_out(stack, tokens["access_token"])

        def is_denied() -> bool:
            return b"x-auth-subject" not in check(check_request(tokens["access_token"]), timeout=20)

        eventually("the token to be denied", is_denied)
