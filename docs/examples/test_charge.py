"""Cuts the handlers of charge.py everywhere: one charges twice, the other does not."""

from collections.abc import Callable
from itertools import count

import charge
import pytest
import trio

from trioqueue.testing import cut_everywhere

ORDER = {"card": "visa 4242", "cents": 1999}


class FakeBank:
    """Charges once for each key, as banks do."""

    def __init__(self) -> None:
        self.charges: dict[str, tuple[str, int]] = {}
        self._numbers = count(1)

    async def charge(self, card: str, cents: int, *, key: str | None = None) -> str:
        await trio.sleep(0.1)  # the request is on its way
        self.charges.setdefault(key or f"without a key, {next(self._numbers)}", (card, cents))
        await trio.sleep(0.1)  # the answer is on its way
        return f"{cents} cents from {card}"


@pytest.fixture
def new_bank(monkeypatch: pytest.MonkeyPatch) -> Callable[[], FakeBank]:
    def make() -> FakeBank:
        bank = FakeBank()
        monkeypatch.setattr(charge, "bank", bank)
        return bank

    return make


def test_the_mended_handler_charges_once(new_bank: Callable[[], FakeBank]) -> None:
    cut_everywhere(charge.charge_once, ORDER, world=new_bank, effects=lambda bank: bank.charges.values())


def test_the_first_handler_may_charge_twice(new_bank: Callable[[], FakeBank]) -> None:
    with pytest.raises(AssertionError, match="2 × \\('visa 4242', 1999\\)"):
        cut_everywhere(charge.charge, ORDER, world=new_bank, effects=lambda bank: bank.charges.values())
