import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import initialize_embeddings_
from recbole_llminit.strategies.base import list_strategies
from recbole_llminit.strategies.noise import Noise
from recbole_llminit.strategies.projection import PrincipalComponents
from recbole_llminit.strategies.selection import Random, Uniform, Variance
from recbole_llminit.vectors.embeddings import ItemEmbeddings


class Net(nn.Module):
    """Four items and three users with [PAD]; every row starts at its own number below zero."""

    def __init__(self, width=2, **others):
        super().__init__()
        self.users = nn.Embedding(3, width)
        self.items = nn.Embedding(4, width, padding_idx=0)
        for name, (rows, columns) in others.items():
            setattr(self, name, nn.Embedding(rows, columns))
        with torch.no_grad():
            self.users.weight.copy_(-torch.arange(3.0)[:, None] - 1)
            self.items.weight.copy_(-torch.arange(4.0)[:, None] - 10)


#                                 [PAD]   a  b  c
INTERACTIONS = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.float32))


def start(net, embeddings, strategy=None, **options):
    return initialize_embeddings_(net, embeddings, INTERACTIONS, strategy or Uniform(), seed=1, **options)


@pytest.fixture
def vectors(embed):
    return embed([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])


def test_values_literally(vectors):
    net = Net()
    start(net, vectors)
    assert net.items.weight.tolist() == [[-10, -10], [1, 3], [5, 7], [9, 11]]
    # The first user trained on items 1 and 2, the second on none.
    assert net.users.weight.tolist() == [[-1, -1], [3, 5], [-3, -3]]


def test_the_parameters_stay_the_same_objects(vectors):
    net = Net()
    before = dict(net.named_parameters())
    start(net, vectors)
    assert all(parameter is before[name] for name, parameter in net.named_parameters())
    assert net.items.padding_idx == 0
    assert net.items.weight.requires_grad and net.items.weight.is_leaf


def test_an_item_without_a_vector_keeps_its_row_and_leaves_the_mean(embed):
    net = Net()
    report = start(net, embed([1, 2, 3, 4], None, [9, 10, 11, 12]))
    assert net.items.weight.tolist() == [[-10, -10], [1, 3], [-12, -12], [9, 11]]
    assert net.users.weight.tolist() == [[-1, -1], [1, 3], [-3, -3]]
    assert (report.items, report.items_with_vector, report.users, report.users_with_items) == (3, 2, 2, 1)
    assert [(table.rows_written, table.rows_left) for table in report.tables] == [(1, 2), (2, 2)]


def test_missing_mean_writes_the_mean_but_not_into_users(embed):
    net = Net()
    start(net, embed([1, 2, 3, 4], None, [9, 10, 11, 12]), missing="mean")
    assert net.items.weight.tolist() == [[-10, -10], [1, 3], [5, 7], [9, 11]]
    assert net.users.weight.tolist()[1] == [1, 3]


def test_missing_error_writes_nothing(embed):
    net = Net()
    with pytest.raises(LLMInitError, match=r"1 of 3 items have no vector in vectors \(i2\)"):
        start(net, embed([1, 2, 3, 4], None, [9, 10, 11, 12]), missing="error")
    assert net.items.weight.tolist()[1] == [-11, -11]


def test_users_left_as_they_are(vectors):
    net = Net()
    report = start(net, vectors, user="none")
    assert net.users.weight.tolist() == [[-1, -1], [-2, -2], [-3, -3]]
    assert [table.name for table in report.tables] == ["items.weight"]
    assert report.skipped == {"users.weight": "init_user is none"}
    assert "3 of 3 items, no user table written" in str(report)


def test_users_at_vectors_of_their_own(embed, vectors):
    # The second of two users has a vector; both reductions are uni's columns 0 and 2, scaled alike.
    users = embed(None, [4, 0, 8, 0], tokens=["u1", "u2"])
    net, plain = Net(), Net()
    report = start(net, vectors, user=users, scale=0.5)
    start(plain, vectors, scale=0.5)
    factor = plain.items.weight[1, 0].item()
    assert torch.equal(net.items.weight, plain.items.weight)
    assert net.users.weight.tolist()[:2] == [[-1, -1], [-2, -2]]
    assert net.users.weight[2].tolist() == pytest.approx([4 * factor, 8 * factor])
    assert (report.users_with_items, report.user) == (1, "vectors")
    assert "1 of 2 users (vectors)" in str(report)


def test_what_looks_wrong_with_the_users_vectors_is_said(embed, vectors):
    users = embed([1, 2, 3, 4], None, None, tokens=["u1", "u2", "u3"])
    users = replace(
        users, embeddings=replace(users.embeddings, metadata={"model": "other"}), warnings=("is keyed 0...2",)
    )
    items = replace(vectors, embeddings=replace(vectors.embeddings, metadata={"model": "one"}))
    interactions = csr_matrix(np.array([[0] * 4] * 4, dtype=np.float32))
    net = Net()
    net.users = nn.Embedding(4, 2)
    # As many users as items: the names tell them apart.
    tables = {"user": ["users.weight"], "item": ["items.weight"]}
    report = initialize_embeddings_(net, items, interactions, Uniform(), seed=1, user=users, tables=tables)
    assert report.warnings == (
        "is keyed 0...2",
        "only 1 of 3 users have a vector in vectors: the others start from the model's own values; check that the file "
        "belongs to this dataset",
        "the users' vectors were made by other, and the items' by one: they are not in one space",
    )
    assert "2 users without a vector" in str(report)


def test_users_of_another_space_are_refused(embed, vectors):
    users = embed([1, 2, 3], [4, 5, 6], tokens=["u1", "u2"])
    with pytest.raises(
        LLMInitError, match="the users' vectors in vectors have 3 dimensions, and the items' in vectors 4"
    ):
        start(Net(), vectors, user=users)
    with pytest.raises(LLMInitError, match=r"init_user is vectors, and Noise\(deviation=0.05\) reads no vectors"):
        start(Net(), vectors, Noise(), user=users)


def test_users_by_degree(vectors):
    net = Net()
    report = start(net, vectors, user="degree")
    # Items 1 and 2 have one user, who has two items.
    assert net.users.weight[1].tolist() == pytest.approx([6 / 2**0.5, 10 / 2**0.5])
    assert "1 of 2 users (degree)" in str(report)


def test_nothing_to_write_is_refused(vectors):
    with pytest.raises(LLMInitError, match=r"nothing of Net would be written \(init_user: none"):
        start(Net(), vectors, user="none", tables={"user": ["users.weight"]})
    with pytest.raises(LLMInitError, match="nothing of Net would be written"):
        start(Net(), vectors, tables={"item": []})


@pytest.mark.parametrize(
    ("rows", "options", "half"),
    [
        ([[1, 1, 1e300, 1], [2, 1, 1e300, 1], [1, 1, 1e300, 3]], {}, False),
        ([[1, 1, 1e300, 1], [2, 1, 1e300, 1], [1, 1, 1e300, 3]], {"scale": "score"}, False),
        ([[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 2, 3]], {"scale": 1e300}, False),
        ([[1e5, 1, 2, 3], [1, 2, 3, 4], [4, 3, 2, 1]], {}, True),
    ],
    ids=["float64 vectors", "float64 vectors, score", "scale", "half-precision table"],
)
def test_no_infinity_is_written(embed, rows, options, half):
    net = Net().half() if half else Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    aligned = embed([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])
    wide = ItemEmbeddings(aligned.embeddings.tokens, (np.array(rows),), "vectors", "0").align(aligned.tokens, "toy")
    with pytest.raises(
        LLMInitError,
        match=r"the values for (users|items).weight do not fit its torch.float(16|32)|numbers beyond float32",
    ):
        start(net, wide, **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_scale_by_number_is_the_deviation_of_the_item_values(vectors):
    net = Net()
    start(net, vectors, scale=0.5)
    written = net.items.weight[1:].detach().numpy()
    assert written.std() == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(written / written[0, 0], [[1, 3], [5, 7], [9, 11]], rtol=1e-6)
    np.testing.assert_allclose(net.users.weight[1].detach(), written[:2].mean(axis=0), rtol=1e-6)


def test_scale_model_is_the_deviation_the_table_had(vectors):
    net = Net()
    deviation = float(net.items.weight.detach().std())
    start(net, vectors, scale="model")
    assert net.items.weight[1:].detach().numpy().std() == pytest.approx(deviation, rel=1e-6)


@pytest.mark.parametrize("user", ["mean", "idf", "file"])
def test_scale_score_is_the_deviation_of_all_dot_products(embed, tmp_path, user):
    generator = np.random.default_rng(3)
    items = embed(*generator.normal(size=(3, 4)))
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=np.float32))
    own = ItemEmbeddings(np.array(["u1", "u2"]), (generator.normal(size=(2, 4)),), "users", "0")
    net, how = Net(), own.align(["[PAD]", "u1", "u2"], "toy") if user == "file" else user
    initialize_embeddings_(net, items, interactions, Uniform(), seed=1, scale="score", user=how)
    written_users, written_items = (weight[1:].detach().numpy() for weight in (net.users.weight, net.items.weight))
    assert (written_users @ written_items.T).std() == pytest.approx(1 / 16, rel=1e-5)
    plain = Net()
    initialize_embeddings_(plain, items, interactions, Uniform(), seed=1, user=how)
    factor = written_items[0, 0] / plain.items.weight[1, 0].item()
    for side in ("users", "items"):
        scaled, raw = (getattr(model, side).weight[1:].detach().numpy() for model in (net, plain))
        np.testing.assert_allclose(scaled, raw * factor, rtol=1e-5)


def test_scale_score_without_a_user_table_is_that_of_the_items_means(embed):
    items = embed(*np.random.default_rng(4).normal(size=(3, 4)))
    net, alone = Net(), Net()
    del alone.users
    for model, user in ((net, "mean"), (alone, "none")):
        start(model, items, scale="score", user=user)
    np.testing.assert_array_equal(net.items.weight[1:].detach(), alone.items.weight[1:].detach())


def test_scale_score_of_equal_scores(embed):
    users = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]], dtype=np.float32))
    # The users stand at right angles to all differences between items.
    same = embed([3, 9, -1, 9], [-1, 9, 3, 9], [1, 9, 1, 9])
    with pytest.raises(LLMInitError, match="give every pair the same score"):
        initialize_embeddings_(Net(), same, users, Uniform(), seed=1, scale="score")
    without = csr_matrix((3, 4), dtype=np.float32)
    with pytest.raises(LLMInitError, match="no user has a training item with a vector"):
        initialize_embeddings_(Net(), embed([1, 2, 3, 4], [4, 3, 2, 1], [1, 0, 1, 0]), without, Uniform(), seed=1,
                               scale="score")  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"scale": 0.1}, {"scale": "score"}, {"user": "none"}])
@pytest.mark.parametrize("row", [[0, 0, 0, 0], [1, 1, 1, 1], [1, 2, 3, 4]])
@pytest.mark.parametrize("strategy", [Uniform(), Variance(popular_ratio=1.0), Random(), PrincipalComponents()])
def test_items_that_would_all_start_the_same(embed, strategy, row, options):
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        LLMInitError, match="all 3 items would start at the same .*check the vectors in vectors|equal|alike"
    ):
        start(net, embed(row, row, row), strategy, **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("factor", [1e-20, 1e-25, 1e-40])
def test_values_that_training_cannot_leave(embed, factor):
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]) * factor
    net = Net()
    with pytest.raises(
        LLMInitError, match=r"the values for users.weight .*deviation of .*\(init_scale: raw\).*such as 0.05"
    ):
        start(net, embed(*rows))
    assert net.items.weight[1, 0] == -11
    # What can be brought to a size is.
    if factor > 1e-30:
        start(net, embed(*rows), scale=0.05)
        assert net.items.weight[1:].detach().numpy().std() == pytest.approx(0.05, rel=1e-5)


def test_a_scale_that_leaves_nothing(vectors):
    with pytest.raises(LLMInitError, match=r"the values for users.weight .*\(init_scale: 1e-300\)"):
        start(Net(), vectors, scale=1e-300)


def test_the_deviations_reported_are_those_of_the_rows_written(vectors):
    report = start(Net(), vectors)
    items = next(table for table in report.tables if table.side == "item")
    # By hand: [PAD] keeps -10, which is none of them.
    assert items.std_after == pytest.approx(np.std([1, 3, 5, 7, 9, 11]))
    assert items.std_before == pytest.approx(np.std([-11, -11, -12, -12, -13, -13]))


def test_scale_score_with_the_users_of_the_model(embed):
    """They are not multiplied, so the items take the whole factor."""
    generator = np.random.default_rng(3)
    net = Net()
    with torch.no_grad():
        net.users.weight.copy_(torch.from_numpy(generator.normal(size=(3, 2))))
    users = net.users.weight.detach().clone()
    start(net, embed(*generator.normal(size=(3, 4))), scale="score", user="none")
    assert torch.equal(net.users.weight, users)
    scores = users[1:].numpy() @ net.items.weight[1:].detach().numpy().T
    assert scores.std() == pytest.approx(1 / 16, rel=1e-5)


def test_each_table_is_reduced_to_its_own_width(vectors):
    net = Net(wide_items=(4, 4), narrow_users=(3, 3))
    report = start(net, vectors)
    assert net.items.weight.tolist()[1] == [1, 3]
    assert net.wide_items.weight.tolist()[1] == [1, 2, 3, 4]
    # Of four columns 0, 1 and 2; the mean of the first two items.
    assert net.narrow_users.weight.tolist()[1] == [3, 4, 5]
    assert {width: reduction["dimensions"] for width, reduction in report.reductions.items()} == {
        2: [0, 2], 4: [0, 1, 2, 3], 3: [0, 1, 2],
    }  # fmt: skip


def test_popularity_is_the_training_degree(embed):
    # int(0.5 * 4) = 2: items 1 and 2 have training interactions, and there column 3 varies most.
    net = Net(width=1)
    report = start(
        net,
        embed([0, 0, 0, 1], [1, 0, 0, 4], [0, 90, 0, 0]),
        Variance(popular_ratio=0.5),
        tables={"item": ["items.weight"]},
    )
    assert report.reductions[1]["dimensions"] == [3]


def test_too_wide_a_table_is_refused_before_anything_is_written(vectors):
    net = Net(width=5)
    with pytest.raises(LLMInitError) as caught:
        start(net, vectors)
    assert str(caught.value) == (
        "embedding_size 5 is larger than the 4 dimensions of vectors (table users.weight): set embedding_size <= 4, "
        "or use a larger encoder"
    )
    for sizes, message in [
        ({"hidden_size": 5, "n_layers": 2}, "hidden_size 5 is larger than .*: set hidden_size <= 4, or use"),
        (
            {"mlp_hidden_size": [8, 5, 2]},
            r"mlp_hidden_size 5 is larger than .*: set mlp_hidden_size: \[4, 4, 2\], or use",
        ),
    ]:
        with pytest.raises(LLMInitError, match=message):
            start(net, vectors, sizes=sizes)
    assert net.items.weight.tolist()[1] == [-11] * 5


@pytest.mark.parametrize("strategy", [Random(), Uniform(), Variance(1.0)], ids=repr)
def test_a_broken_vector_is_refused_before_anything_is_written(embed, strategy):
    net = Net()
    with pytest.raises(LLMInitError, match=r"vectors of 1 or more items \(i2\)"):
        start(net, embed([1, 2, 3, 4], [np.nan] * 4, [9, 10, 11, 12]), strategy)
    assert net.items.weight.tolist()[1] == [-11, -11]


@pytest.mark.parametrize("entry", list_strategies(), ids=lambda entry: entry.name)
def test_random_states_are_untouched(embed, entry):
    vectors = embed([1, 2, 3, 4], [5, 6, 7, 9], [9, 1, 2, 12])
    net, together = Net(), csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1]], dtype=np.float32))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    strategy = entry.cls(**({"popular_ratio": 1.0} if entry.name == "var" else {}))
    initialize_embeddings_(net, vectors, together, strategy, seed=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_half_precision_tables(vectors):
    net = Net().half()
    start(net, vectors)
    assert net.items.weight.dtype == torch.float16
    assert net.items.weight.tolist()[1:] == [[1, 3], [5, 7], [9, 11]]


def test_report_prints_and_saves(vectors, tmp_path):
    report = start(Net(words=(9, 2)), vectors, Variance(1.0))
    printed = str(report)
    for part in ("Variance(popular_ratio=1.0)", "3 of 3 items, 1 of 2 users", "words.weight: 9 rows, neither users nor items", "vectors (4 dimensions)",
                 "4 x 2, 3 item rows written, 1 left"):  # fmt: skip
        assert part in printed
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved == report.to_dict()
    assert saved["reductions"]["2"] == {"kind": "columns", "dimensions": [0, 1], "unit": False}
    assert saved["tables"][0]["shape"] == [3, 2]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.json"]


@pytest.mark.parametrize(("with_vector", "warned"), [(3, False), (2, False), (1, True)])
def test_low_coverage_is_a_warning(embed, with_vector, warned):
    rows = [[1 + number, 2, 3, 4] for number in range(with_vector)] + [None] * (4 - with_vector)
    net = nn.Module()
    net.items = nn.Embedding(5, 2)
    report = initialize_embeddings_(net, embed(*rows), csr_matrix(np.eye(3, 5, dtype=np.float32)), Uniform(), seed=1)
    if warned:
        assert report.warnings[0].startswith("only 1 of 4 items (25%) have a vector in vectors")
    else:
        assert report.warnings == ()
