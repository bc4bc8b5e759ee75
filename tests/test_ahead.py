"""Making the next item while one is used."""

import threading

import pytest

from inspect_cli.ahead import ahead, behind


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


def test_behind_hands_on_an_item_when_its_successor_is_made():
    made = []

    def numbers():
        for number in range(4):
            made.append(number)
            yield number

    known = [(number, made[-1]) for number in behind(numbers())]
    assert known == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert list(behind([])) == []
    assert list(behind(["one"])) == ["one"]
