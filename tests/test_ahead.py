"""Making the next item while one is used."""

import threading

import pytest

from inspect_cli.scoring.ahead import ahead


def test_items_keep_their_order_and_are_made_elsewhere():
    makers = set()

    def numbers():
        for number in range(50):
            makers.add(threading.get_ident())
            yield number

    assert list(ahead(numbers())) == list(range(50))
    assert threading.get_ident() not in makers
    assert list(ahead([])) == []


def test_one_item_is_made_while_its_predecessor_is_used_and_no_more():
    made = []
    second = threading.Event()

    def numbers():
        for number in range(4):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    source = ahead(numbers())
    assert next(source) == 0
    assert second.wait(5)
    assert made == [0, 1]
    source.close()
    assert made == [0, 1]


def test_an_error_comes_in_its_place():
    def broken():
        yield 1
        raise ValueError("second")

    source = ahead(broken())
    assert next(source) == 1
    with pytest.raises(ValueError, match="second"):
        next(source)
