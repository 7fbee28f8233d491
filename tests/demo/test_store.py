"""What is kept for visitors, and for how long."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("gradio")

from longformer_plus.demo.store import VisitorStore


def test_visitors_are_kept_apart_and_freed() -> None:
    store = VisitorStore[str](100)
    store.put("a", "document of a", 10)
    store.put("b", "document of b", 20)
    assert store.get("a") == "document of a"
    assert store.get("b") == "document of b"
    assert store.num_bytes == 30
    store.free("a")
    assert store.get("a") is None
    assert (len(store), store.num_bytes) == (1, 20)


def test_what_was_not_used_for_longest_gives_way() -> None:
    store = VisitorStore[str](100)
    store.put("a", "a", 40)
    store.put("b", "b", 40)
    store.get("a")
    store.put("c", "c", 40)
    assert [store.get(name) for name in "abc"] == ["a", None, "c"]
    store.put("a", "a again", 60)
    assert (store.get("a"), store.num_bytes) == ("a again", 100)
    with pytest.raises(ValueError, match="101 bytes"):
        store.put("d", "d", 101)


def test_an_address_with_many_sessions_pushes_out_its_own() -> None:
    store = VisitorStore[str](100)
    store.put("a", "a", 40, "10.0.0.1")
    for number in range(50):
        store.put(f"script {number}", "s", 30, "10.0.0.2")
    assert store.get("a") == "a"
    assert store.get("script 49") == "s"
    # Alone it may hold all there is; a newcomer takes from it.
    store.put("b", "b", 30, "10.0.0.3")
    assert store.get("a") == "a"
    assert store.num_bytes <= 100


def test_what_is_old_goes() -> None:
    now = [0.0]
    store = VisitorStore[str](100, max_age=60, clock=lambda: now[0])
    store.put("a", "a", 1)
    now[0] = 50.0
    assert store.get("a") == "a"
    now[0] = 111.0
    assert store.get("a") is None
    assert len(store) == 0


def test_the_store_holds_its_cap_under_many_threads() -> None:
    store = VisitorStore[int](1000)

    def visit(number: int) -> None:
        for turn in range(200):
            store.put(str(number), number, 100)
            assert store.get(str(number)) in (number, None)
            assert store.num_bytes <= 1000
            if turn % 7 == 0:
                store.free(str(number))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.num_bytes == 100 * len(store) <= 1000
