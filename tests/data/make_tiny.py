"""Make the tiny dataset of the tests: 40 users, 29 items of four kinds, missing values of all kinds, a knowledge graph.

``python tests/data/make_tiny.py`` writes ``tests/data/tiny``; the result is committed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "tiny"
N_USERS = 40
ITEMS = {
    "tea": ["Green Tea Leaves", "Earl Grey Tea", "Porcelain Teapot", "Bamboo Tea Whisk", "Jasmine Tea Bags",
            "Tea Strainer", "Oolong Tea Tin"],
    "camera": ["Digital Camera", "Camera Tripod", "Lens Cleaning Cloth", "Wide Angle Lens", "Camera Bag",
               "Memory Card", "Camera Battery Charger"],
    "guitar": ["Acoustic Guitar", "Guitar Strings", "Guitar Capo", "Electric Guitar Amplifier", "Guitar Picks",
               "Guitar Stand", "Guitar Strap", "Guitar Tuner"],
    "garden": ["Garden Hose", "Tomato Seeds", "Pruning Shears", "Flower Pot", "Potting Soil", "Watering Can",
               "Garden Gloves"],
}  # fmt: skip


class Item(NamedTuple):
    """An item with its kind and its title."""

    item: str
    kind: str
    title: str


def main() -> None:
    """Write the atomic files; all draw from one generator, so that their order matters."""
    rng = random.Random(7)
    FOLDER.mkdir(exist_ok=True)
    kinds = [(kind, title) for kind, titles in ITEMS.items() for title in titles]
    items = [Item(f"B{number:03d}", kind, title) for number, (kind, title) in enumerate(kinds, start=1)]
    write("item", "item_id:token title:token_seq kind:token price:float", item_rows(items, rng))
    write("user", "user_id:token age:float city:token", user_rows(rng))
    write("inter", "user_id:token item_id:token rating:float timestamp:float", interaction_rows(items, rng))
    # Every tenth item is no entity; entities that are no item are the kinds and five makers.
    entities = {item.item: f"m.{item.item}" for index, item in enumerate(items) if index % 10 != 9}
    triples = list(graph_rows(items, entities, rng))
    write("link", "item_id:token entity_id:token", entities.items())
    write("kg", "head_id:token relation_id:token tail_id:token", triples)
    # Pre-trained vectors of entities and relations, as KSR and GRU4RecKG want them.
    names = sorted({name for head, _, tail in triples for name in (head, tail)})
    for kind, tokens in (("ent", names), ("rel", ["made_by", "of_kind"])):
        write(kind, f"{kind}_id:token {kind}_emb:float_seq", vector_rows(tokens, rng))


def write(suffix: str, header: str, rows: Iterable[Iterable[str]]) -> None:
    """Write an atomic file; the header's fields are separated by spaces."""
    lines = ["\t".join(row) for row in [header.split(), *rows]]
    (FOLDER / f"tiny.{suffix}").write_text("\n".join(lines) + "\n")


def item_rows(items: list[Item], rng: random.Random) -> Iterable[tuple[str, ...]]:
    """Yield the items: the fifth has no title, every sixth no price, the last no kind."""
    for index, (item, kind, title) in enumerate(items):
        yield (
            item,
            "" if index == 4 else title,
            "" if index == len(items) - 1 else kind,
            "" if index % 6 == 5 else f"{rng.uniform(3, 90):.2f}",
        )


def user_rows(rng: random.Random) -> Iterable[tuple[str, ...]]:
    """Yield the users: every seventh has no age, every ninth no city."""
    for user in range(1, N_USERS + 1):
        age = "" if user % 7 == 0 else str(rng.randint(18, 80))
        city = "" if user % 9 == 0 else rng.choice(["Aarhus", "Lyon", "Osaka"])
        yield f"u{user:02d}", age, city


def interaction_rows(items: list[Item], rng: random.Random) -> Iterable[tuple[str, ...]]:
    """Yield the interactions: most of a user's items are of two kinds, and a tenth of the ratings is missing."""
    for user in range(1, N_USERS + 1):
        likes = rng.sample(list(ITEMS), 2)
        liked = [item.item for item in items if item.kind in likes]
        others = [item.item for item in items if item.kind not in likes]
        chosen = rng.sample(liked, rng.randint(5, 9)) + rng.sample(others, 2)
        for position, item in enumerate(chosen):
            rating = "" if rng.random() < 0.1 else str(rng.randint(1, 5))
            yield f"u{user:02d}", item, rating, str(user * 1000 + position)


def graph_rows(items: list[Item], entities: dict[str, str], rng: random.Random) -> Iterable[tuple[str, str, str]]:
    """Yield the triples: the kind and the maker of each item that is an entity."""
    for item in items:
        if item.item in entities:
            yield entities[item.item], "of_kind", f"m.{item.kind}"
            yield entities[item.item], "made_by", f"m.maker{rng.randint(1, 5)}"


def vector_rows(tokens: list[str], rng: random.Random) -> Iterable[tuple[str, str]]:
    """Yield a vector of eight dimensions for each token."""
    for token in tokens:
        yield token, " ".join(f"{rng.gauss(0, 1):.3f}" for _ in range(8))


if __name__ == "__main__":
    main()
