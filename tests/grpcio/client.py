"""A gRPC client that is not of this language: what it sees of a server that forwards by a balancer.

    client.py PORT NOWHERE

PORT is the server's that forwards to others, NOWHERE that of one that has nobody to forward to. Ends with
a traceback if anything is not as it would be without a balancer between.
"""

import queue
import sys

import grpc

PLAIN = {"request_serializer": bytes, "response_deserializer": bytes}


def varint(number):
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def item(name, count):
    """`shop.v1.Item`, of `examples/tonic/shop.proto`."""
    return b"\x12" + varint(len(name)) + name.encode() + b"\x18" + varint(count)


def of_cart(cart):
    """`shop.v1.ListRequest`."""
    return b"\x0a" + varint(len(cart)) + cart.encode()


def count(message):
    """The one number in a `shop.v1.Total` or `Item`, all small here: it follows its tag."""
    tag = b"\x18" if message[:1] == b"\x18" else b"\x08"
    assert message[:1] == tag, message
    return message[1]


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was answered")


class Cart:
    def __init__(self, port):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.add = channel.unary_unary("/shop.v1.Cart/Add", **PLAIN)
        self.add_all = channel.stream_unary("/shop.v1.Cart/AddAll", **PLAIN)
        self.list = channel.unary_stream("/shop.v1.Cart/List", **PLAIN)
        self.follow = channel.stream_stream("/shop.v1.Cart/Follow", **PLAIN)


def unary(cart):
    for number in range(1, 101):
        assert count(cart.add(item("apple", number))) == number


def errors(cart):
    # Trailers only.
    error = error_of(lambda: cart.add(item("missing", 1)))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such item"), error
    trailers = dict(error.trailing_metadata())
    assert trailers["x-shelf"] == "empty", trailers
    assert trailers["grpc-status-details-bin"] == b"details", trailers
    # In the trailers, after messages.
    items, error = drained(cart.list(of_cart("fail")))
    assert items == [1, 2, 3], items
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "the rest fell down"), error


def drained(call):
    items = []
    try:
        for message in call:
            items.append(count(message))
    except grpc.RpcError as error:
        return items, error
    return items, None


def streams(cart):
    assert drained(cart.list(of_cart("mine"))) == ([1, 2, 3], None)
    assert count(cart.add_all(item("apple", number) for number in range(1, 5))) == 10
    # Each answer is waited for before the next item goes out.
    asked = queue.Queue()
    totals = cart.follow(iter(asked.get, None))
    for number, total in [(1, 1), (2, 3), (3, 6)]:
        asked.put(item("apple", number))
        assert count(next(totals)) == total
    asked.put(None)
    assert next(totals, None) is None


def no_endpoint(nowhere):
    error = error_of(lambda: nowhere.add(item("apple", 1)))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    assert "no endpoint of" in error.details(), error


def cancelled(cart):
    call = cart.list(of_cart("hang"))
    assert count(next(call)) == 1
    call.cancel()


def deadlines(cart):
    error = error_of(lambda: cart.add(item("hang", 1), timeout=0.2))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    # It covers the stream. On a busy machine the items may come too late, and then a longer one is what
    # to try. The last call, whose metadata the test looks at.
    limit, items = 0.2, []
    while items != [1, 2, 3]:
        metadata = [("x-user", "ann"), ("x-raw-bin", bytes([0, 255, 7]))]
        items, error = drained(cart.list(of_cart("hang"), timeout=limit, metadata=metadata))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        limit *= 2


cart = Cart(sys.argv[1])
unary(cart)
errors(cart)
streams(cart)
no_endpoint(Cart(sys.argv[2]))
cancelled(cart)
deadlines(cart)
