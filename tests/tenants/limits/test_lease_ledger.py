"""What a tenant has spent in a month, over several ingresses, months and ledgers."""

from serve_app.tenants.limits.lease import Ask, Kind, Lease, Spent
from serve_app.tenants.limits.lease_ledger import LeaseLedger

OLD, NOW = "2026-10", "2026-11"


def ask(
    ledger: LeaseLedger,
    ingress: str,
    by_me: int,
    in_all: int | None = None,
    *,
    month: str = NOW,
    said: str = NOW,
) -> Lease:
    asked = Ask(1000, 0.0, 0.0, 1.0, 1.0, None, Spent(said, by_me, in_all))
    return ledger.settle(ingress, {"acme": {Kind.MONTH: asked}}, 0.0, month)["acme"][Kind.MONTH]


def test_what_records_say_and_what_each_ingress_spends_adds_up() -> None:
    ledger = LeaseLedger()
    ledger.begin(NOW, {"acme": 500, "other": 7})
    assert ask(ledger, "one", 0).spent == 500
    assert ask(ledger, "two", 0).spent == 500
    assert ask(ledger, "one", 30).spent == 530
    assert ask(ledger, "one", 30).spent == 530
    assert ask(ledger, "two", 5).spent == 535
    assert ask(ledger, "two", 465).granted == 1.0 - 0.0
    assert ask(ledger, "one", 36).granted == 0.0


def test_nothing_is_granted_while_nobody_knows_what_was_spent() -> None:
    ledger = LeaseLedger()
    lease = ask(ledger, "one", 0)
    assert (lease.granted, lease.spent) == (0.0, None)
    assert not ledger.knows(NOW)
    ledger.begin(NOW, {"acme": 10})
    assert ask(ledger, "one", 0).granted == 1.0


def test_a_ledger_that_follows_a_lost_one_believes_the_ingresses() -> None:
    ledger = LeaseLedger()
    assert ask(ledger, "one", 50, in_all=700).spent == 700
    assert ask(ledger, "two", 20, in_all=690).spent == 700
    assert ask(ledger, "two", 25, in_all=695).spent == 705
    ledger.begin(NOW, {"acme": 680})
    assert ask(ledger, "one", 50, in_all=705).spent == 705


def test_a_new_month_begins_with_nothing() -> None:
    ledger = LeaseLedger()
    ledger.begin(OLD, {"acme": 1000})
    assert ask(ledger, "one", 0, month=OLD).granted == 0.0
    assert ask(ledger, "one", 3, in_all=1003, said=OLD).spent == 3
    assert ask(ledger, "one", 3, in_all=1003, said=OLD).granted == 1.0
