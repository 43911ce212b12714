"""Make the tiny dataset of the tests: 40 users, 29 items of four kinds, with gaps where real files have gaps, and a knowledge graph.

``python tests/data/make_tiny.py`` writes ``tests/data/tiny``; the result is committed.
"""

import random
from pathlib import Path

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


def main() -> None:
    """Write the atomic files."""
    rng = random.Random(7)
    folder = Path(__file__).parent / "tiny"
    folder.mkdir(exist_ok=True)
    items = [(f"B{index:03d}", kind, title) for index, (kind, title) in enumerate(
        ((kind, title) for kind, titles in ITEMS.items() for title in titles), start=1)]  # fmt: skip

    rows = ["item_id:token\ttitle:token_seq\tkind:token\tprice:float"]
    for index, (item, kind, title) in enumerate(items):
        # The fifth item has no title, every sixth no price, the last one no kind.
        rows.append("\t".join([
            item,
            "" if index == 4 else title,
            "" if index == len(items) - 1 else kind,
            "" if index % 6 == 5 else f"{rng.uniform(3, 90):.2f}",
        ]))  # fmt: skip
    (folder / "tiny.item").write_text("\n".join(rows) + "\n")

    rows = ["user_id:token\tage:float\tcity:token"]
    for user in range(1, 41):
        rows.append(
            f"u{user:02d}\t{'' if user % 7 == 0 else rng.randint(18, 80)}\t"
            f"{'' if user % 9 == 0 else rng.choice(['Aarhus', 'Lyon', 'Osaka'])}"
        )
    (folder / "tiny.user").write_text("\n".join(rows) + "\n")

    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    kinds = list(ITEMS)
    for user in range(1, 41):
        likes = rng.sample(kinds, 2)
        liked = [item for item, kind, _ in items if kind in likes]
        others = [item for item, kind, _ in items if kind not in likes]
        chosen = rng.sample(liked, rng.randint(5, 9)) + rng.sample(others, 2)
        for position, item in enumerate(chosen):
            rating = "" if rng.random() < 0.1 else str(rng.randint(1, 5))
            rows.append(f"u{user:02d}\t{item}\t{rating}\t{user * 1000 + position}")
    (folder / "tiny.inter").write_text("\n".join(rows) + "\n")

    # Every tenth item is no entity; entities that are no item are the kinds and five makers.
    entities = {item: f"m.{item}" for index, (item, _, _) in enumerate(items) if index % 10 != 9}
    rows = ["item_id:token\tentity_id:token", *(f"{item}\t{entity}" for item, entity in entities.items())]
    (folder / "tiny.link").write_text("\n".join(rows) + "\n")
    rows = ["head_id:token\trelation_id:token\ttail_id:token"]
    for item, kind, _ in items:
        if item in entities:
            rows.append(f"{entities[item]}\tof_kind\tm.{kind}")
            rows.append(f"{entities[item]}\tmade_by\tm.maker{rng.randint(1, 5)}")
    (folder / "tiny.kg").write_text("\n".join(rows) + "\n")

    # Pre-trained vectors of entities and relations, as KSR and GRU4RecKG want them.
    names = sorted({name for row in rows[1:] for name in row.split("\t")[::2]})
    for kind, tokens in (("ent", names), ("rel", ["made_by", "of_kind"])):
        rows = [f"{kind}_id:token\t{kind}_emb:float_seq"]
        rows += [f"{token}\t{' '.join(f'{rng.gauss(0, 1):.3f}' for _ in range(8))}" for token in tokens]
        (folder / f"tiny.{kind}").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
